"""Latents of a data set on disk and in memory: raw, so that the statistics may come later.

A file is named by the case, which changes with its source and preparation, and by the window; its folder by the
encoder. So nothing stale is ever read, and what is missing can be told from the names.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from dataset.checksums import DamagedFile, opened, save_checked
from dataset.intensity import Window
from ddpm.latent.contract import LatentEncoder

log = logging.getLogger(__name__)


def latent_folder(folder: str | Path, encoder: LatentEncoder) -> Path:
    """The sub-folder of an encoder's latents."""
    return Path(folder) / f"latents-{encoder.fingerprint()}"


def latent_file(home: Path, case: str | Path, window: Window) -> Path:
    """Where the raw latents of a case file lie: a case holds HU, so the window is part of the name."""
    return home / f"{Path(case).stem}-{window.low:g}_{window.high:g}.safetensors"


def is_whole(file: Path) -> bool:
    """Whether the latents are there, and as they were written."""
    try:
        with opened(file) as content:
            return "raw" in content.keys() and content.get_tensor("raw") is not None  # noqa: SIM118 (no dict)
    except DamagedFile as error:
        if file.is_file():
            log.warning("%s; it is encoded again", str(error).partition(";")[0])
        return False


def write_latents(raw: Float[Tensor, "c d h w"], file: Path) -> None:
    """Stores raw latents of one case, whole or not at all, with their checksum."""
    file.parent.mkdir(parents=True, exist_ok=True)
    save_checked({"raw": raw.float().cpu()}, file)


def read_latents(files: Sequence[Path]) -> Float[Tensor, "n c d h w"]:
    """Raw latents of all cases."""
    return torch.stack([_read(file) for file in files])


def _read(file: Path) -> Tensor:
    with opened(file) as content:
        return content.get_tensor("raw")


class LatentDataset(Dataset):
    """Items of a case data set with whitened `latent` in place of `ct`.

    Takes the same keys: an index, or (index, step). What goes with the latents is kept in memory, unless the cases
    change their X-rays from step to step: then it is asked for anew in training. A loader takes whole batches by
    `__getitems__` with `collate`: one gather from stacked tensors in place of a copy an item.
    """

    def __init__(self, cases: Dataset, latents: Tensor):
        self.latents, self.cases = latents, cases
        self.conditions = default_collate([cases.condition(i) for i in range(len(latents))])

    @property
    def augments(self) -> bool:
        """Whether an item depends on the step it is asked for."""
        return self.cases.augments

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, key: int | tuple[int, int]) -> dict:
        index, step = key if isinstance(key, tuple) else (key, -1)
        told = self._told(index, step)
        return {**told, "latent": self.latents[index], "index": index, "step": step}

    def __getitems__(self, keys: Sequence[int | tuple[int, int]]) -> dict:
        """The batch of these keys, collated."""
        pairs = [key if isinstance(key, tuple) else (key, -1) for key in keys]
        chosen = torch.tensor([index for index, _ in pairs])
        if self._changes(max(step for _, step in pairs)):
            told = default_collate([self._told(index, step) for index, step in pairs])
        else:
            told = {name: _taken(kept, chosen) for name, kept in self.conditions.items()}
        steps = torch.tensor([step for _, step in pairs])
        return {**told, "latent": self.latents.index_select(0, chosen), "index": chosen, "step": steps}

    @staticmethod
    def collate(batch: dict) -> dict:
        """Nothing is left to do."""
        return batch

    def _changes(self, step: int) -> bool:
        return step >= 0 and self.augments

    def _told(self, index: int, step: int) -> dict:
        if self._changes(step):
            return self.cases.condition(index, step)
        return {name: _plain(kept[index]) for name, kept in self.conditions.items()}


def _taken(kept: Tensor | list, chosen: Tensor) -> Tensor | list:
    """Those entries of a collated word or tensor."""
    return kept.index_select(0, chosen) if isinstance(kept, Tensor) else [kept[i] for i in chosen.tolist()]


def _plain(value):
    """A single label as the plain number it came as."""
    return value.item() if isinstance(value, Tensor) and not value.ndim else value
