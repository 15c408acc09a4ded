"""Latents of a data set on disk and in memory: raw, so that the statistics may come later.

A file is named by the case, which changes with its source and preparation, and by the window; its folder by the
encoder. So nothing stale is ever read, and what is missing can be told from the names.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Dataset

from dataset.intensity import Window
from ddpm.latent.contract import LatentEncoder


def latent_folder(folder: str | Path, encoder: LatentEncoder) -> Path:
    """The sub-folder of an encoder's latents."""
    return Path(folder) / f"latents-{encoder.fingerprint()}"


def latent_file(home: Path, case: str | Path, window: Window) -> Path:
    """Where the raw latents of a case file lie: a case holds HU, so the window is part of the name."""
    return home / f"{Path(case).stem}-{window.low:g}_{window.high:g}.safetensors"


def is_whole(file: Path) -> bool:
    """Whether the latents are there and complete."""
    try:
        with safe_open(file, framework="pt") as content:  # checks the header against the length of the file
            return "raw" in content.keys()  # noqa: SIM118 (no dict)
    except (SafetensorError, FileNotFoundError):
        return False


def write_latents(raw: Float[Tensor, "c d h w"], file: Path) -> None:
    """Stores raw latents of one case, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_suffix(f".{os.getpid()}.partial")
    save_file({"raw": raw.float().cpu().contiguous()}, beside)
    os.replace(beside, file)


def read_latents(files: Sequence[Path]) -> Float[Tensor, "n c d h w"]:
    """Raw latents of all cases."""
    return torch.stack([load_file(file)["raw"] for file in files])


class LatentDataset(Dataset):
    """Items of a case data set with whitened `latent` in place of `ct`.

    Takes the same keys: an index, or (index, step). What goes with the latents is kept in memory, unless the cases
    change their X-rays from step to step: then it is asked for anew in training.
    """

    def __init__(self, cases: Dataset, latents: Tensor):
        self.latents, self.cases = latents, cases
        self.items = [cases.condition(i) for i in range(len(latents))]

    @property
    def augments(self) -> bool:
        """Whether an item depends on the step it is asked for."""
        return self.cases.augments

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: int | tuple[int, int]) -> dict:
        index, step = key if isinstance(key, tuple) else (key, -1)
        changing = step >= 0 and self.augments
        told = self.cases.condition(index, step) if changing else self.items[index]
        return {**told, "latent": self.latents[index], "index": index, "step": step}
