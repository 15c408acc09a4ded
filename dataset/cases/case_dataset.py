"""Cases as training samples: windowed, cropped, films laid by their lungs, X-rays changed at random in training."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from common.checked_tensors import DamagedFile
from common.errors import UserError
from dataset.cases.case import Case
from dataset.cases.store import opened_case, read_case, stored, stored_shape
from dataset.imaging.geometry import VIEW_AZIMUTH, extent_mm
from dataset.imaging.hu_window import Window
from dataset.imaging.volume import Volume
from dataset.xray.lung_alignment import LungMap, lung_map
from dataset.xray.options import XrayOptions

log = logging.getLogger(__name__)


class CaseDataset(Dataset):
    """Cases as training samples.

    An item is a dict: `ct` (1, D, H, W) float32 in [-1, 1]; `xray` (V, 1, h, w) float32 in [0, 1]; `pose` (V, 9);
    `spacing` (3,) mm, with `extent` the nominal one where a pose is unknown: a film does not tell how large its
    patient is, so neither training nor a test may; `label` 0, 1 or -1; `id`; `index`; `step` (-1 outside training).

    Args:
        paths: case files.
        rows: their rows of the manifest, in the same order.
        window: HU window of the model.
        crop: voxels `[d, h, w]` of a crop, or None for the whole volume. It is random where an item is asked for as
            `(index, step)`, by a generator seeded by `(seed, step, index)`, and the middle where only as `index`.
        seed: of the crops and of the changes to X-rays.
        xray_options: what is done to X-rays.
        lung_box: of the training volumes, where films are laid by their lungs.
        extent: mm `(D, H, W)` that every volume is taken to have whose X-ray has no pose, as in generation; None: each
            its own.
        rebuild: `(row, path)`, makes a case again that is found damaged or gone; None refuses such a case.
        keep: holds volumes, as they are stored, and laid X-rays in memory from the first time that they are asked for.

    Raises:
        UserError: at an item, if the crop is larger than the volume.
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
        # a row of a table is slow to take out, and each item needs two of its words
        self.words = [(int(label), str(name)) for label, name in zip(rows["label"], rows["id"], strict=True)]
        self.window, self.seed = Window.parse(window), int(seed)
        self.crop = None if crop is None else tuple(int(n) for n in crop)
        self.xray_options, self.lung_box = xray_options or XrayOptions(), lung_box
        self.extent = None if extent is None else tuple(float(e) for e in extent)
        self.rebuild, self.keep = rebuild, bool(keep)
        self._kept: dict[int, dict[str, Tensor]] = {}

    @property
    def augments(self) -> bool:
        """Whether a condition depends on the step it is asked for."""
        return self.xray_options.augmentation is not None

    def __len__(self) -> int:
        return len(self.paths)

    def case(self, index: int) -> Case:
        """Everything that is stored of one case: HU, X-rays (films laid), own geometry, of phantoms the label map."""
        case = self._mended(index, lambda: read_case(self.paths[index]))
        told = self._told_spacing(case["pose"], case["spacing"], case["ct"].shape)
        case["xray"] = self._laid(case["xray"].float(), case["pose"], told, case["ct"].shape).half()
        return case

    def unlaid(self) -> list[str]:
        """Ids of the cases with a film that was to be laid by its lungs and is not, for none were found in it."""
        found = []
        for index, (_, name) in enumerate(self.words):
            if self._mended(index, lambda index=index: self._is_unlaid(index)):
                found.append(name)
        return found

    def _is_unlaid(self, index: int) -> bool:
        with opened_case(self.paths[index]) as file:
            pose = file.get_tensor("pose")
            if not self._lays(pose):
                return False
            shape, spacing = stored_shape(file, "ct"), file.get_tensor("spacing")
            extent = extent_mm(shape, self._told_spacing(pose, spacing, shape).tolist())
            return None in self._maps(file.get_tensor("xray").float(), pose, extent).values()

    def condition(self, index: int, step: int = -1) -> dict[str, Any]:
        """What goes with a volume, without the volume, which is not read: X-rays, pose, spacing, label, id.

        X-rays are changed at random where `step` is that of a training batch and the source asks for it.
        """
        return self._condition(self._mended(index, lambda: self._read(index, volume=False)), index, step)

    def _read(self, index: int, volume: bool) -> dict[str, Tensor]:
        """`xray` (V, h, w), `pose` and `spacing` of a case, and `ct` as it is stored."""
        if index in self._kept:
            return self._kept[index]
        with opened_case(self.paths[index]) as file:
            pose, shape = file.get_tensor("pose"), stored_shape(file, "ct")
            spacing = self._told_spacing(pose, file.get_tensor("spacing"), shape)
            xray = self._laid(file.get_tensor("xray").float(), pose, spacing, shape)
            found = {"xray": xray, "pose": pose, "spacing": spacing}
            if volume:
                found["ct"] = file.get_tensor("ct")
        if self.keep and volume:  # copies: what was read lies in the file's own pages, which go with it
            found = self._kept[index] = {name: tensor.clone() for name, tensor in found.items()}
        return found

    def _mended(self, index: int, read: Callable[[], Any]) -> Any:
        """What `read` gives; a case that it finds damaged or gone is made again first."""
        try:
            return read()
        except DamagedFile as error:
            if self.rebuild is None:
                raise
            log.warning("%s; it is built again", str(error).partition(";")[0])
            self.rebuild(self.rows.iloc[index].to_dict(), self.paths[index])
            return read()

    def _condition(self, found: dict[str, Tensor], index: int, step: int) -> dict[str, Any]:
        xray, pose = self._changed(found["xray"], found["pose"], index, step)
        label, name = self.words[index]
        return {"xray": xray[:, None], "pose": pose, "label": label, "id": name, "spacing": found["spacing"]}

    def __getitem__(self, item: int | tuple[int, int]) -> dict[str, Any]:
        return self.__getitems__([item])[0]

    def __getitems__(self, keys: Sequence[int | tuple[int, int]]) -> list[dict[str, Any]]:
        """Items of these keys, their volumes windowed into one tensor, so that `collate` need not copy them."""
        pairs = [key if isinstance(key, tuple) else (key, -1) for key in keys]
        items = [self._stored_item(index, step) for index, step in pairs]
        shapes = {item["ct"].shape for item in items}
        rows = torch.empty(len(items), 1, *shapes.pop()) if len(shapes) == 1 else [None] * len(items)
        for item, row in zip(items, rows, strict=True):
            item["ct"] = self.window.normalise(item["ct"][None], out=row)
        return items

    @staticmethod
    def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
        """torch's `default_collate`, without a copy of volumes that lie in one tensor already."""
        together = items[0]["ct"]._base
        rows = [] if together is None or len(together) != len(items) else list(together)
        if [row.data_ptr() for row in rows] != [item["ct"].data_ptr() for item in items]:
            return default_collate(items)
        return {"ct": together, **default_collate([{k: v for k, v in item.items() if k != "ct"} for item in items])}

    def _stored_item(self, index: int, step: int) -> dict[str, Any]:
        """The item, its volume `(d, h, w)` in HU as it is stored."""
        found = self._mended(index, lambda: self._read(index, volume=True))
        ct, condition = found["ct"], self._condition(found, index, step)
        if self.crop is not None:
            ct, condition["pose"] = self._cropped(ct, condition["pose"], condition["spacing"], index, step)
        return {"ct": ct, **condition, "index": int(index), "step": int(step)}

    def _laid(self, xray: Tensor, pose: Tensor, spacing: Tensor, shape: tuple) -> Tensor:
        """Frontal films without a pose, laid by their lungs; a film whose lungs are not found stays as it is."""
        if not self._lays(pose):
            return xray
        laid = xray.clone()
        for view, found in self._maps(xray, pose, extent_mm(shape, spacing.tolist())).items():
            laid[view] = xray[view] if found is None else found.apply(xray[view])
        return laid

    def _lays(self, pose: Tensor) -> bool:
        return self.xray_options.align == "lungs" and self.lung_box is not None and bool(pose.isnan().any())

    def _maps(self, xray: Tensor, pose: Tensor, extent: tuple[float, float, float]) -> dict[int, LungMap | None]:
        """Of every frontal view without a pose, the map by its lungs, None where they are not found."""
        maps = {}
        for view, place in enumerate(pose):
            name = next((name for name, azimuth in VIEW_AZIMUTH.items() if float(place[2]) == azimuth), "PA")
            if place.isnan().any() and name != "lateral":
                maps[view] = lung_map(xray[view], self.lung_box, extent, name)
        return maps

    def _told_spacing(self, pose: Tensor, spacing: Tensor, shape: tuple) -> Tensor:
        """The spacing of a case as a generator may know it."""
        if self.extent is None or not pose.isnan().any():
            return spacing
        return torch.tensor(self.extent) / torch.tensor(tuple(shape))

    def _changed(self, xray: Tensor, pose: Tensor, index: int, step: int) -> tuple[Tensor, Tensor]:
        if step < 0 or self.xray_options.augmentation is None:
            return xray, pose

        def render(poses: Tensor) -> Tensor:
            path = self.paths[index]
            volume = Volume(stored(path, "ct").float().numpy(), tuple(stored(path, "spacing").tolist()))
            return self.xray_options.render(volume, poses, tuple(xray.shape[1:]))

        words = (self.seed, step, index)
        return self.xray_options.augmentation(xray, pose, words, render if self.xray_options.render else None)

    def _cropped(self, ct: Tensor, pose: Tensor, spacing: Tensor, index: int, step: int) -> tuple[Tensor, Tensor]:
        room = [size - n for size, n in zip(ct.shape, self.crop, strict=True)]
        if min(room) < 0:
            raise UserError(f"crop {list(self.crop)} is larger than the volume {list(ct.shape)}; make it smaller")
        if step < 0:
            start = [free // 2 for free in room]
        else:
            start = np.random.default_rng((self.seed, step, index)).integers(0, np.array(room) + 1).tolist()
        window = tuple(slice(s, s + n) for s, n in zip(start, self.crop, strict=True))
        # Poses are relative to the centre of the volume, which the crop moves.
        moved = torch.tensor([s - free / 2.0 for s, free in zip(start, room, strict=True)]) * spacing
        pose = pose.clone()
        pose[:, 4:7] -= moved
        return ct[window], pose
