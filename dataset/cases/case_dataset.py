"""Cases as training samples: windowed, cropped, X-rays aligned by their lungs and augmented in training."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from common.checked_tensors import DamagedFile, open_checked
from common.errors import UserError
from dataset.cases.case import Case
from dataset.cases.store import read_case, stored
from dataset.imaging.coverage import fill
from dataset.imaging.geometry import VIEW_AZIMUTH, extent_mm
from dataset.imaging.hu_window import Window
from dataset.imaging.volume import Volume
from dataset.xray.lung_alignment import LungMap, lung_map
from dataset.xray.options import XrayOptions

log = logging.getLogger(__name__)


class CaseDataset(Dataset):
    """Samples of cases.

    A sample is a dict: `ct` (1, D, H, W) float32 in [-1, 1]; `scanned` (1, D, H, W) bool, False where the scan ended
    and `ct` repeats its last slices (`dataset.imaging.coverage.fill`); `xray` (V, 1, h, w) float32 in [0, 1], NaN =
    unknown; `pose` (V, 9); `spacing` (3,) mm; `label` 0, 1 or -1; `id`; `index`; `step` (-1 outside training).
    `spacing` is that of `extent` where a pose is unknown, because a radiograph does not show how large its patient is.

    Args:
        paths, rows: case files and their rows of the manifest, in the same order.
        crop: voxels `[d, h, w]` of a crop, or None for the whole volume. A key `(index, step)` crops at random, with a
            generator seeded by `(seed, step, index)`; a key `index` crops the centre.
        seed: of crops and augmentation.
        lung_box: lung box of the training volumes, for the alignment.
        extent: nominal mm `(D, H, W)` of volumes whose X-ray has no pose; None: each its own.
        rebuild: `(row, path)`, builds a damaged or missing case again; None raises the error.
        keep: keep stored volumes and aligned X-rays in memory after the first read.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        rows: pd.DataFrame,
        window: Window,
        crop: Sequence[int] | None = None,
        seed: int = 0,
        xray_options: XrayOptions | None = None,
        lung_box: Sequence[float] | None = None,
        extent: Sequence[float] | None = None,
        rebuild: Callable[[dict, Path], None] | None = None,
        keep: bool = False,
    ):
        if len(paths) != len(rows):
            raise ValueError(f"{len(paths)} paths but {len(rows)} rows")
        self.paths, self.rows = list(paths), rows.reset_index(drop=True)
        # reading a row of a table is slow
        self.labels_and_ids = list(zip(rows["label"].astype(int).tolist(), rows["id"].astype(str), strict=True))
        self.window, self.seed = Window.parse(window), int(seed)
        self.crop = None if crop is None else tuple(int(n) for n in crop)
        self.xray_options, self.lung_box = xray_options or XrayOptions(), lung_box
        self.extent = None if extent is None else tuple(float(e) for e in extent)
        self.rebuild, self.keep = rebuild, bool(keep)
        self._kept: dict[int, dict[str, Tensor]] = {}
        # by index and view: finding lungs takes longer than the augmentation of a step
        self._lung_maps: dict[tuple[int, int], LungMap | None] = {}

    @property
    def augments(self) -> bool:
        """Whether X-rays depend on the training step."""
        return self.xray_options.augmentation is not None

    def __len__(self) -> int:
        return len(self.paths)

    def case(self, index: int) -> Case:
        """Everything stored of one case: HU, aligned X-rays, its own geometry, the label map of a phantom.

        `ct` is filled and has `scanned` (D, H, W) beside it.
        """
        case = self._read_or_rebuild(index, lambda: read_case(self.paths[index]))
        return {**case, **filled(case["ct"]), "xray": self._read(index, volume=False)["xray"].half()}

    def unaligned(self) -> list[str]:
        """Ids of the cases with an X-ray that needs alignment but shows no lungs."""
        names = enumerate(name for _, name in self.labels_and_ids)
        return [name for i, name in names if self._read_or_rebuild(i, lambda i=i: self._lacks_lungs(i))]

    def condition(self, index: int, step: int = -1) -> dict[str, Any]:
        """A sample without its volume: X-rays, pose, spacing, label, id. A training step augments X-rays."""
        return self._condition(self._read_or_rebuild(index, lambda: self._read(index, volume=False)), index, step)

    def _lacks_lungs(self, index: int) -> bool:
        with open_checked(self.paths[index]) as file:
            pose, shape = file.get_tensor("pose"), file.shape("ct")
            spacing = self._condition_spacing(pose, file.get_tensor("spacing"), shape)
            xray = file.get_tensor("xray").float()
            maps = self._needs_alignment(pose) and self._maps(xray, pose, spacing, shape, index)
            return bool(maps) and None in maps.values()

    def _read(self, index: int, volume: bool) -> dict[str, Tensor]:
        """Aligned `xray` (V, h, w), `pose` and `spacing` of a case and, if `volume`, filled `ct` and `scanned`."""
        if index in self._kept:
            return self._kept[index]
        with open_checked(self.paths[index]) as file:
            pose, shape = file.get_tensor("pose"), file.shape("ct")
            spacing = self._condition_spacing(pose, file.get_tensor("spacing"), shape)
            xray = self._aligned(file.get_tensor("xray").float(), pose, spacing, shape, index)
            found = {"xray": xray, "pose": pose, "spacing": spacing}
            found |= filled(file.get_tensor("ct")) if volume else {}
        if self.keep and volume:  # copies: the tensors read are pages of the file
            copies = {name: tensor.clone() for name, tensor in found.items() if name != "scanned"}
            found = self._kept[index] = {**found, **copies}
        return found

    def _read_or_rebuild(self, index: int, read: Callable[[], Any]) -> Any:
        """The result of `read`; rebuilds a damaged or missing case."""
        try:
            return read()
        except DamagedFile as error:
            if self.rebuild is None:
                raise
            log.warning("%s; building it again", str(error).partition(";")[0])
            self.rebuild(self.rows.iloc[index].to_dict(), self.paths[index])
            return read()

    def _condition(self, found: dict[str, Tensor], index: int, step: int) -> dict[str, Any]:
        xray, pose, options = found["xray"], found["pose"], self.xray_options

        def render(poses: Tensor) -> Tensor:
            path = self.paths[index]
            hu = filled(stored(path, "ct"))["ct"].float().numpy()
            volume = Volume(hu, tuple(stored(path, "spacing").tolist()))
            return options.render(volume, poses, tuple(xray.shape[1:]), stream)

        stream = (self.seed, step, index)
        if step >= 0 and self.augments:
            xray, pose = options.augmentation(xray, pose, stream, render if options.render else None)
        label, name = self.labels_and_ids[index]
        return {"xray": xray[:, None], "pose": pose, "label": label, "id": name, "spacing": found["spacing"]}

    def __getitem__(self, item: int | tuple[int, int]) -> dict[str, Any]:
        return self.__getitems__([item])[0]

    def __getitems__(self, keys: Sequence[int | tuple[int, int]]) -> list[dict[str, Any]]:
        """Samples of these keys, their volumes windowed into one tensor, which `collate` returns without a copy."""
        items = [self._stored_item(*(key if isinstance(key, tuple) else (key, -1))) for key in keys]
        shapes = {item["ct"].shape for item in items}
        rows = torch.empty(len(items), 1, *shapes.pop()) if len(shapes) == 1 else [None] * len(items)
        for item, row in zip(items, rows, strict=True):
            item["ct"] = self.window.normalise(item["ct"][None], out=row)
        return items

    @staticmethod
    def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
        """torch's `default_collate`, without a copy of volumes that are parts of one tensor."""
        together = items[0]["ct"]._base
        rows = [] if together is None or len(together) != len(items) else list(together)
        if [row.data_ptr() for row in rows] != [item["ct"].data_ptr() for item in items]:
            return default_collate(items)
        return {"ct": together, **default_collate([{k: v for k, v in item.items() if k != "ct"} for item in items])}

    def _stored_item(self, index: int, step: int) -> dict[str, Any]:
        """The sample with its volume `(d, h, w)` in HU."""
        found = self._read_or_rebuild(index, lambda: self._read(index, volume=True))
        ct, scanned, condition = found["ct"], found["scanned"], self._condition(found, index, step)
        if self.crop is not None:
            box, condition["pose"] = self._cropped(ct.shape, condition["pose"], condition["spacing"], index, step)
            ct, scanned = ct[box], scanned[box]
        return {"ct": ct, "scanned": scanned[None], **condition, "index": int(index), "step": int(step)}

    def _aligned(self, xray: Tensor, pose: Tensor, spacing: Tensor, shape: tuple, index: int) -> Tensor:
        """X-rays with the frontal views of unknown pose aligned by their lungs, where lungs are found."""
        maps = self._maps(xray, pose, spacing, shape, index) if self._needs_alignment(pose) else {}
        views = enumerate(xray)
        return torch.stack([image if maps.get(i) is None else maps[i].apply(image) for i, image in views])

    def _needs_alignment(self, pose: Tensor) -> bool:
        return self.xray_options.align == "lungs" and self.lung_box is not None and bool(pose.isnan().any())

    def _maps(
        self, xray: Tensor, pose: Tensor, spacing: Tensor, shape: tuple, index: int
    ) -> dict[int, LungMap | None]:
        """The lung map of every frontal view of unknown pose; None where no lungs are found."""
        maps, extent = {}, extent_mm(shape, spacing.tolist())
        for view, place in enumerate(pose):
            name = next((name for name, azimuth in VIEW_AZIMUTH.items() if float(place[2]) == azimuth), "PA")
            if place.isnan().any() and name != "lateral":
                if (index, view) not in self._lung_maps:
                    self._lung_maps[index, view] = lung_map(xray[view], self.lung_box, extent, name)
                maps[view] = self._lung_maps[index, view]
        return maps

    def _condition_spacing(self, pose: Tensor, spacing: Tensor, shape: tuple) -> Tensor:
        """The spacing for the model: the nominal one where a pose is unknown."""
        if self.extent is None or not pose.isnan().any():
            return spacing
        return torch.tensor(self.extent) / torch.tensor(tuple(shape))

    def _cropped(
        self, shape: Sequence[int], pose: Tensor, spacing: Tensor, index: int, step: int
    ) -> tuple[tuple[slice, ...], Tensor]:
        """The box of a crop, and the poses relative to its centre."""
        room = [size - n for size, n in zip(shape, self.crop, strict=True)]
        if min(room) < 0:
            raise UserError(f"crop {list(self.crop)} is larger than the volume {list(shape)}; make it smaller")
        if step < 0:
            start = [free // 2 for free in room]
        else:
            start = np.random.default_rng((self.seed, step, index)).integers(0, np.array(room) + 1).tolist()
        window = tuple(slice(s, s + n) for s, n in zip(start, self.crop, strict=True))
        pose = pose.clone()  # relative to the centre of the volume, which the crop changes
        pose[:, 4:7] -= torch.tensor([s - free / 2.0 for s, free in zip(start, room, strict=True)]) * spacing
        return window, pose


def filled(ct: Tensor) -> dict[str, Tensor]:
    """`ct` (D, H, W) without marks, and `scanned`; without a copy if all is scanned."""
    hu, scanned = fill(ct.numpy())
    if scanned.all():
        return {"ct": ct, "scanned": torch.ones((), dtype=torch.bool).expand(ct.shape)}
    return {"ct": torch.from_numpy(hu), "scanned": torch.from_numpy(scanned)}
