"""Finds a checkpoint and opens the pipeline in it on a device, with its sampler."""

import logging
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from common.errors import UserError
from common.files import ROOT
from ddpm.checkpoint.load import load_pipeline
from ddpm.pipeline_folder import is_folder

log = logging.getLogger(__name__)


TRAINING_FOLDER = "outputs/train_ddpm"


SHIPPED = ROOT / "assets" / "phantom_128.safetensors"  # docs/demo_weights.md


def resolve_device(name: str) -> torch.device:
    """`auto` is a GPU where torch can use one, else the CPU; anything else is a torch device name.

    Raises:
        UserError: a device that torch does not know or cannot use.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device={name}: torch cannot use it ({reason}); use device=auto or device=cpu") from error


def find_checkpoint(path: str | None, folder: str | Path = TRAINING_FOLDER, shipped: Path | None = None) -> Path:
    """The checkpoint named, or the newest DDPM checkpoint under the folder named, or under `folder`, or `shipped`.

    Raises:
        UserError: there is none; the line names the command that trains one.
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
        log.warning("checkpoint: none was trained, the shipped phantom weights are used: the anatomy is a drawing")
        return shipped
    if not found:
        raise UserError(f"checkpoint: none given and no *.ckpt under {folder}; {remedy}")
    # Of two files written in the same instant (a numbered one and last.ckpt) the name decides, so that it is fixed.
    newest = max(found, key=lambda file: (file.stat().st_mtime, file.name == "last.ckpt", str(file)))
    log.info("checkpoint: %s, the newest under %s", newest, folder)
    return newest


def open_generator(checkpoint: str | None, device: str, sampler: DictConfig, shipped: Path | None = None) -> tuple:
    """The pipeline of `find_checkpoint` on a device, set to the node `sampler` of a config, and its file; says both.

    Raises:
        UserError: what `resolve_device`, `find_checkpoint`, `load_pipeline` and `set_sampler` refuse.
    """
    place = resolve_device(device)
    print(f"device: {place}")
    path = find_checkpoint(checkpoint, shipped=shipped)
    print(f"checkpoint: {path}", flush=True)
    pipeline = load_pipeline(path, device=place)
    set_sampler(pipeline, OmegaConf.to_container(sampler, resolve=True))
    return pipeline, path


def set_sampler(pipeline, sampler: dict) -> None:
    """Gives the pipeline its sampler from the node `sampler` of a config.

    Raises:
        UserError: an unknown sampler, or steps below 1.
    """
    if int(sampler["steps"]) < 1:
        raise UserError(f"sampler.steps={sampler['steps']}: give at least 1")
    try:
        pipeline.set_sampler(**sampler)
    except ValueError as error:
        raise UserError(str(error)) from error
