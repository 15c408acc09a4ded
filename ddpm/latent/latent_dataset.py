"""Latents of a data set on disk, raw, and in memory, standardised.

The name of a file contains the case, which changes with its source and preparation, and the window; that of its folder
the encoder. So no stale file is read, and the names show which files are missing.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from common.checked_tensors import DamagedFile, open_checked, save_checked
from dataset.imaging.hu_window import Window
from dataset.imaging.unknown_pixels import pooled
from ddpm.latent.base import LatentEncoder

log = logging.getLogger(__name__)

PART = 64  # cases whose X-rays are read at once if memory does not hold all


def latent_folder(folder: str | Path, encoder: LatentEncoder) -> Path:
    """Sub-folder of an encoder's latents."""
    return Path(folder) / f"latents-{encoder.fingerprint()}"


def latent_file(home: Path, case: str | Path, window: Window) -> Path:
    """File of the raw latents of a case in an HU window."""
    return home / f"{Path(case).stem}-{window.low:g}_{window.high:g}.safetensors"


def is_whole(file: Path) -> bool:
    """Whether the file exists and matches its checksum."""
    try:
        with open_checked(file) as content:
            return "raw" in content.keys() and content.get_tensor("raw") is not None  # noqa: SIM118 (no dict)
    except DamagedFile as error:
        if file.is_file():
            log.warning("%s; the case is encoded again", str(error).partition(";")[0])
        return False


def scanned_latents(scanned: Bool[Tensor, "b 1 D H W"], size: Sequence[int]) -> Bool[Tensor, "b 1 d h w"]:
    """Latent voxels of `size` of which at least half of the block was scanned."""
    return F.adaptive_avg_pool3d(scanned.float(), tuple(size)) >= 0.5


def write_latents(raw: Float[Tensor, "c d h w"], file: Path, scanned: Bool[Tensor, "1 d h w"] | None = None) -> None:
    """Writes raw latents of one case atomically, with their checksum; `scanned` None: all of them."""
    file.parent.mkdir(parents=True, exist_ok=True)
    marks = {} if scanned is None or scanned.all() else {"scanned": scanned.to("cpu", torch.uint8)}
    save_checked({"raw": raw.float().cpu(), **marks}, file)


def read_latents(files: Sequence[Path]) -> Float[Tensor, "n c d h w"]:
    """Raw latents of all cases."""
    return torch.stack([_read(file)[0] for file in files])


def read_scanned(files: Sequence[Path]) -> Bool[Tensor, "n 1 d h w"]:
    """Masks of the latents of all cases."""
    return torch.stack([_read(file)[1] for file in files])


def _read(file: Path) -> tuple[Float[Tensor, "c d h w"], Bool[Tensor, "1 d h w"]]:
    with open_checked(file) as content:
        raw, marked = content.get_tensor("raw"), "scanned" in content.keys()  # noqa: SIM118 (no dict)
        return raw, content.get_tensor("scanned").bool() if marked else torch.ones(1, *raw.shape[1:], dtype=torch.bool)


class StoredLatents:
    """Latents on disk, in place of a tensor `(n, c, d, h, w)` too large for memory.

    `files` hold raw latents, one case each; the statistics of the encoder standardise them.
    """

    def __init__(self, files: Sequence[Path], encoder: LatentEncoder):
        self.files = list(files)
        # copies, because the encoder may move to a GPU
        self.mean, self.std = (x.detach().cpu().clone() for x in (encoder.latent_mean, encoder.latent_std))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Float[Tensor, "c d h w"]:
        return self.index_select(0, torch.tensor([index]))[0]

    def index_select(self, dim: int, chosen: Tensor) -> Float[Tensor, "m c d h w"]:
        """Latents of the cases `chosen`, as of a tensor along dimension 0."""
        raw = read_latents([self.files[i] for i in chosen.tolist()])
        return (raw - self.mean.view(1, -1, 1, 1, 1)) / self.std.view(1, -1, 1, 1, 1)

    def scanned(self, chosen: Tensor) -> Bool[Tensor, "m 1 d h w"]:
        """Masks of the cases `chosen`."""
        return read_scanned([self.files[i] for i in chosen.tolist()])

    def split(self, count: int) -> Iterator[Float[Tensor, "m c d h w"]]:
        """All latents in order, `count` at once."""
        for chosen in torch.arange(len(self)).split(count):
            yield self.index_select(0, chosen)


class LatentDataset(Dataset):
    """Items of a case data set with standardised `latent` in place of `ct`, by index or (index, step).

    `scanned` (1, d, h, w) of an item is that of its latents: of the tensor given here, or from `StoredLatents`.
    X-rays and labels stay in memory unless the latents are `StoredLatents`. A loader gets whole batches from
    `__getitems__` with `collate`, which is faster than item by item.
    """

    def __init__(
        self, cases: Dataset, latents: Tensor | StoredLatents, scanned: Bool[Tensor, "n 1 d h w"] | None = None
    ):
        self.latents, self.cases, self.in_memory = latents, cases, isinstance(latents, Tensor)
        self._scanned = scanned
        self.conditions = default_collate([cases.condition(i) for i in range(len(latents))]) if self.in_memory else {}

    def xrays(
        self, pixels: int, step: int = -1, align: Callable[[dict], dict] | None = None
    ) -> Float[Tensor, "n v 1 p q"]:
        """All X-rays, without augmentation or as at a `step` of training; averaged down to `pixels` if not in memory.

        `align` is a function of a batch without latents that returns it with another `xray`.
        """
        if align is None and not self._reads_cases(step):
            return self.conditions["xray"]
        xrays = []
        for chosen in torch.arange(len(self)).split(PART):
            batch = self._collated([(i, step) for i in chosen.tolist()])
            xray = (batch if align is None else align(batch))["xray"]
            xrays.append(pooled(xray, pixels))
        return torch.cat(xrays)

    def scanned(self, chosen: Int[Tensor, " m"] | None = None) -> Bool[Tensor, "m 1 d h w"]:
        """Masks of the latents of the cases `chosen`, by default of all."""
        chosen = torch.arange(len(self)) if chosen is None else chosen
        if not self.in_memory:
            return self.latents.scanned(chosen)
        if self._scanned is None:
            return torch.ones((), dtype=torch.bool).expand(len(chosen), 1, *self.latents.shape[2:])
        return self._scanned.index_select(0, chosen)

    @property
    def augments(self) -> bool:
        """Whether an item depends on the step."""
        return self.cases.augments

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, key: int | tuple[int, int]) -> dict:
        index, step = key if isinstance(key, tuple) else (key, -1)
        latents = {"latent": self.latents[index], "scanned": self.scanned(torch.tensor([index]))[0]}
        return {**self._condition(index, step), **latents, "index": index, "step": step}

    def __getitems__(self, keys: Sequence[int | tuple[int, int]]) -> dict:
        """The batch of these keys, collated."""
        batch = self._collated([key if isinstance(key, tuple) else (key, -1) for key in keys])
        chosen = batch["index"]
        return {**batch, "latent": self.latents.index_select(0, chosen), "scanned": self.scanned(chosen)}

    @staticmethod
    def collate(batch: dict) -> dict:
        """The batch, which `__getitems__` has collated."""
        return batch

    def _collated(self, pairs: Sequence[tuple[int, int]]) -> dict:
        """A batch without its latents."""
        chosen, steps = (torch.tensor(part) for part in zip(*pairs, strict=True))
        if self._reads_cases(int(steps.max())):
            batch = default_collate([self._condition(index, step) for index, step in pairs])
        else:
            batch = {
                name: column.index_select(0, chosen)
                if isinstance(column, Tensor)
                else [column[i] for i in chosen.tolist()]
                for name, column in self.conditions.items()
            }
        return {**batch, "index": chosen, "step": steps}

    def _reads_cases(self, step: int) -> bool:
        return not self.in_memory or step >= 0 and self.augments

    def _condition(self, index: int, step: int) -> dict:
        if self._reads_cases(step):
            return self.cases.condition(index, step)
        values = {name: column[index] for name, column in self.conditions.items()}
        return {k: v.item() if isinstance(v, Tensor) and not v.ndim else v for k, v in values.items()}
