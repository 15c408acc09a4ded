"""Latents of a data set on disk and in memory: raw, so that the statistics may come later.

A file is named by the case, which changes with its source and preparation, and by the window; its folder by the
encoder. So nothing stale is ever read, and what is missing can be told from the names.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from common.checked_tensors import DamagedFile, open_checked, save_checked
from dataset.imaging.hu_window import Window
from ddpm.latent.base import LatentEncoder

log = logging.getLogger(__name__)

PART = 64  # cases whose X-rays are read at once where not all are kept


def latent_folder(folder: str | Path, encoder: LatentEncoder) -> Path:
    """The sub-folder of an encoder's latents."""
    return Path(folder) / f"latents-{encoder.fingerprint()}"


def latent_file(home: Path, case: str | Path, window: Window) -> Path:
    """Where the raw latents of a case file lie: a case holds HU, so the window is part of the name."""
    return home / f"{Path(case).stem}-{window.low:g}_{window.high:g}.safetensors"


def is_whole(file: Path) -> bool:
    """Whether the latents are there, and as they were written."""
    try:
        with open_checked(file) as content:
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
    with open_checked(file) as content:
        return content.get_tensor("raw")


class StoredLatents:
    """Whitened latents of many cases that stay on disk: what is asked for is read, and nothing is kept.

    Stands where a tensor `(n, c, d, h, w)` would be too large; the system's file cache serves all processes at once.

    Args:
        files: with the raw latents, one a case.
        encoder: whose statistics, measured before, whiten them; copied, for it may move to a GPU.
    """

    def __init__(self, files: Sequence[Path], encoder: LatentEncoder):
        self.files = list(files)
        self.mean, self.std = (x.detach().cpu().clone() for x in (encoder.latent_mean, encoder.latent_std))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Float[Tensor, "c d h w"]:
        return self.index_select(0, torch.tensor([index]))[0]

    def index_select(self, dim: int, chosen: Tensor) -> Float[Tensor, "m c d h w"]:
        """Those of the cases `chosen`, as of a tensor along its first dimension."""
        raw = read_latents([self.files[i] for i in chosen.tolist()])
        return (raw - self.mean.view(1, -1, 1, 1, 1)) / self.std.view(1, -1, 1, 1, 1)

    def split(self, count: int) -> Iterator[Float[Tensor, "m c d h w"]]:
        """All of them in order, `count` at once."""
        for chosen in torch.arange(len(self)).split(count):
            yield self.index_select(0, chosen)


class LatentDataset(Dataset):
    """Items of a case data set with whitened `latent` in place of `ct`.

    Takes the same keys: an index, or (index, step). What goes with the latents is kept in memory, unless the cases
    change their X-rays from step to step, or the latents are `StoredLatents`: then it is asked for anew. A loader
    takes whole batches by `__getitems__` with `collate`: one gather from stacked tensors in place of a copy an item.
    """

    def __init__(self, cases: Dataset, latents: Tensor | StoredLatents):
        self.latents, self.cases, self.kept = latents, cases, isinstance(latents, Tensor)
        self.conditions = default_collate([cases.condition(i) for i in range(len(latents))]) if self.kept else {}

    def xrays(
        self, pixels: int, step: int = -1, align: Callable[[dict], dict] | None = None
    ) -> Float[Tensor, "n v 1 p q"]:
        """All X-rays, as at a step of training or, by default, without random changes.

        Those that are not kept as they are come averaged down to `pixels` a side.

        Args:
            align: changes the `xray` of batches without latents.
        """
        if align is None and not self._changes(step):
            return self.conditions["xray"]
        found = []
        for chosen in torch.arange(len(self)).split(PART):
            told = self._collated([(i, step) for i in chosen.tolist()])
            xray = told["xray"] if align is None else align(told)["xray"]
            found.append(F.adaptive_avg_pool2d(xray.flatten(0, 1), pixels).unflatten(0, xray.shape[:2]))
        return torch.cat(found)

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
        told = self._collated([key if isinstance(key, tuple) else (key, -1) for key in keys])
        return {**told, "latent": self.latents.index_select(0, told["index"])}

    @staticmethod
    def collate(batch: dict) -> dict:
        """Nothing is left to do."""
        return batch

    def _collated(self, pairs: Sequence[tuple[int, int]]) -> dict:
        """All of a batch but its latents."""
        chosen, steps = (torch.tensor(words) for words in zip(*pairs, strict=True))
        if self._changes(int(steps.max())):
            told = default_collate([self._told(index, step) for index, step in pairs])
        else:
            told = {name: _taken(kept, chosen) for name, kept in self.conditions.items()}
        return {**told, "index": chosen, "step": steps}

    def _changes(self, step: int) -> bool:
        return not self.kept or step >= 0 and self.augments

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
