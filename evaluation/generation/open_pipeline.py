"""Finds a checkpoint and loads its pipeline on a device, with a sampler."""

from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from common.errors import UserError, commands_as_installed, user_errors
from common.files import ROOT, visible
from dataset.manifest.separated import parts
from ddpm.checkpoint.load import load_pipeline
from ddpm.pipeline_folder import is_folder
from evaluation.generation.ensemble import Ensemble

PHANTOM_WEIGHTS = ROOT / "assets" / "phantom_128.safetensors"  # docs/demo_weights.md
LACKING = {  # what a model without these parts lacks
    "decoder_residual": "spreads lack the detail that the decoder loses",
    "training_spread": "evidence maps lack the spread of training volumes",
}
SHIPPED = ROOT / "assets" / "chest_128.safetensors"  # docs/model_card.md


def resolve_device(name: str) -> torch.device:
    """The device of a name, with `auto` the GPU if available, else the CPU; UserError if torch cannot use it."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device={name}: torch cannot use it ({reason}); use device=auto or device=cpu") from error


def find_checkpoint(path: str | None, folder: str | Path = "outputs/train_ddpm", shipped: Path | None = None) -> Path:
    """The checkpoint `path`, or the newest under the folder `path`; for None the newest under `folder`, or `shipped`.

    `shipped` also names the shipped weights. Prints the choice and its reason. Raises UserError if there is none.
    """
    if path == "shipped":
        path = str(SHIPPED)
    remedy = "train one with `python train/train_ddpm.py`, or name one with checkpoint=<path>"
    if path is not None:
        if not Path(path).exists():
            raise UserError(f"checkpoint={path}: no such file; {remedy}")
        if Path(path).is_file() or is_folder(path):
            print(f"checkpoint: {path}", flush=True)
            return Path(path)
        folder = path
    found = [file for file in visible(Path(folder).glob("**/*.ckpt")) if file.is_file()]
    if not found and path is None and shipped is not None and shipped.is_file():
        print(f"checkpoint: {shipped} (the shipped weights: no training under {folder})", flush=True)
        return shipped
    if not found:
        none = (
            f"checkpoint={path}: no *.ckpt in this folder"
            if path
            else f"checkpoint: none, and no *.ckpt under {folder}"
        )
        exported = sorted(Path(folder).glob("*.safetensors")) if path else []
        raise UserError(f"{none}; {f'give its file {exported[0]}' if exported else remedy}")
    # the name decides between files of the same time
    newest = max(found, key=lambda file: (file.stat().st_mtime, file.name == "last.ckpt", str(file)))
    others = f", the newest of {len(found)}" if len(found) > 1 else ""
    print(f"checkpoint: {newest} (under {folder}{others})", flush=True)
    return newest


def open_generator(
    checkpoint: str | None, device: str, sampler: DictConfig, shipped: Path | None = None, several: bool = False
) -> tuple:
    """Loads the pipeline of `find_checkpoint` with the config node `sampler`; returns it with its file.

    With `several`, files separated by semicolons are an `Ensemble`; its file is the first. Prints checkpoint and
    device. Raises UserError as `resolve_device`, `find_checkpoint`, `set_sampler` and `Ensemble`.
    """
    names = parts(checkpoint) if checkpoint and not Path(checkpoint).exists() else [checkpoint]
    if len(names) > 1 and not several:
        raise UserError(f"checkpoint={checkpoint}: several trainings are for generate.py and evaluate.py; give one")
    paths = [find_checkpoint(name, shipped=shipped) for name in names]
    place, path = resolve_device(device), paths[0]
    print(f"device: {place}")
    members = [load_pipeline(one, device=place) for one in paths]
    pipeline = members[0] if len(paths) == 1 else Ensemble(members, paths)
    set_sampler(pipeline, OmegaConf.to_container(sampler, resolve=True))
    if lacking := [text for name, text in LACKING.items() if getattr(pipeline, name) is None]:
        remedy = commands_as_installed(f"python train/fit_parts.py checkpoint={path}")
        print(f"{' and '.join(lacking)}; {remedy} adds {'them' if len(lacking) > 1 else 'it'}")
    return pipeline, path


def set_sampler(pipeline, sampler: dict) -> None:
    """Sets the sampler from the config node `sampler`; UserError for an unknown scheduler or steps below 1."""
    if sampler["steps"] is not None and int(sampler["steps"]) < 1:
        raise UserError(f"sampler.steps={sampler['steps']}: give at least 1")
    with user_errors():
        pipeline.set_sampler(**sampler)
