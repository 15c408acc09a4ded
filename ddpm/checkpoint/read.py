"""Reads a checkpoint file without executing code."""

import json
import pickle
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from common.errors import UserError
from ddpm.checkpoint.header import check_header
from ddpm.checkpoint.upgrade import upgrade
from ddpm.weights.safe_load import DAMAGED, expect_stored

FORMAT = 1


TRAIN_COMMAND = {
    "vqgan": "python train/train_vqgan.py",
    "ddpm": "python train/train_ddpm.py",
    "classifier": "python train/train_classifier.py",
}


def read(path: str | Path) -> tuple[dict, dict[str, torch.Tensor], dict]:
    """Header, weights and the rest of a checkpoint or exported model.

    Raises:
        UserError: for a missing, truncated or foreign file, or one that holds code.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; train one with python train/train_vqgan.py or train_ddpm.py")
    if path.suffix == ".safetensors":
        header, weights, rest = *_read_safetensors(path), {}
    else:
        rest = _read_torch(path)
        header, weights = rest.get("header"), rest.get("state_dict")
    if not isinstance(header, dict) or not isinstance(weights, dict) or "components" not in header:
        raise UserError(f"{path}: not a checkpoint of this project (it has no header); give one that train/ wrote")
    check_header(path, header, FORMAT)
    content = upgrade({**rest, "header": header, "state_dict": weights})
    return content["header"], content["state_dict"], content


def expect_stage(path, header: dict, stage: str) -> None:
    found = header.get("stage")
    if found != stage:
        raise UserError(
            f"{path}: a checkpoint of the stage {found!r} where one of {stage!r} is needed ({TRAIN_COMMAND[stage]})"
        )


def _read_torch(path: Path) -> dict:
    try:
        expect_stored(path)
    except (ValueError, zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{path}: {error}; nothing in it was read. Give a checkpoint that train/ wrote") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: holds objects beyond weights and plain data, or is no checkpoint; nothing in it was run. "
            "Give a checkpoint that train/ wrote"
        ) from error
    except DAMAGED as error:
        raise UserError(f"{path}: truncated or not a checkpoint ({type(error).__name__}); copy it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a checkpoint of this project; give one that train/ wrote")
    return content


def _read_safetensors(path: Path) -> tuple[dict | None, dict[str, torch.Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (safe_open is no dict)
        header = json.loads(metadata["header"]) if "header" in metadata else None
    except (SafetensorError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: truncated or not a safetensors file; copy it again") from error
    return header, {k: v.float() if v.is_floating_point() else v for k, v in weights.items()}
