"""Finds a checkpoint and loads its pipeline on a device, with a sampler."""

import logging
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from common.errors import UserError
from common.files import ROOT
from ddpm.checkpoint.load import load_pipeline
from ddpm.pipeline_folder import is_folder

TRAINING_FOLDER = "outputs/train_ddpm"
SHIPPED = ROOT / "assets" / "phantom_128.safetensors"  # docs/demo_weights.md

log = logging.getLogger(__name__)


def resolve_device(name: str) -> torch.device:
    """The device of a name: `auto` is the GPU if torch can use one, else the CPU.

    Raises:
        UserError: a device that torch cannot use.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device={name}: torch cannot use it ({reason}); use device=auto or device=cpu") from error


def find_checkpoint(path: str | None, folder: str | Path = TRAINING_FOLDER, shipped: Path | None = None) -> Path:
    """The checkpoint `path`, or the newest under the folder `path`; for None the newest under `folder`, or `shipped`.

    Raises:
        UserError: no checkpoint; the line names the command that trains one.
    """
    remedy = "train one with `python train/train_ddpm.py`, or name one with checkpoint=<path>"
    if path is not None:
        if not Path(path).exists():
            raise UserError(f"checkpoint={path}: no such file; {remedy}")
        if Path(path).is_file() or is_folder(path):
            return Path(path)
        folder = path
    found = [file for file in Path(folder).glob("**/*.ckpt") if file.is_file()]
    if not found and path is None and shipped is not None and shipped.is_file():
        log.warning("checkpoint: no training found, the shipped phantom weights are used: their anatomy is drawn")
        return shipped
    if not found:
        raise UserError(f"checkpoint: none given and no *.ckpt under {folder}; {remedy}")
    # the name decides between files of one instant, a numbered one and last.ckpt
    newest = max(found, key=lambda file: (file.stat().st_mtime, file.name == "last.ckpt", str(file)))
    log.info("checkpoint: %s, the newest under %s", newest, folder)
    return newest


def open_generator(checkpoint: str | None, device: str, sampler: DictConfig, shipped: Path | None = None) -> tuple:
    """Loads the pipeline of `find_checkpoint` with the config node `sampler`; returns it with its file, prints both.

    Raises:
        UserError: as `resolve_device`, `find_checkpoint`, `load_pipeline` and `set_sampler`.
    """
    place = resolve_device(device)
    print(f"device: {place}")
    path = find_checkpoint(checkpoint, shipped=shipped)
    print(f"checkpoint: {path}", flush=True)
    pipeline = load_pipeline(path, device=place)
    set_sampler(pipeline, OmegaConf.to_container(sampler, resolve=True))
    return pipeline, path


def set_sampler(pipeline, sampler: dict) -> None:
    """Sets the sampler of the pipeline from the config node `sampler`.

    Raises:
        UserError: an unknown scheduler, or steps below 1.
    """
    if int(sampler["steps"]) < 1:
        raise UserError(f"sampler.steps={sampler['steps']}: give at least 1")
    try:
        pipeline.set_sampler(**sampler)
    except ValueError as error:
        raise UserError(str(error)) from error
