"""A fixed set of DRRs with the depth of the lungs behind each pixel, rendered once and cached."""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from common.checked_tensors import DamagedFile, open_checked, save_checked
from common.errors import UserError
from dataset.cases.store import in_processes
from dataset.imaging.forward_model import MAPS
from dataset.imaging.geometry import view_pose
from dataset.imaging.hu_window import AIR_HU
from dataset.imaging.lung_segmentation import segment_lungs
from dataset.xray.domes import OUTER, above_dome, split_lungs
from train.lungs.counterexamples import counterexample
from train.lungs.projection import Deformation, project_volumes

VERSION = 2  # increase it when the same settings render another DRR
# dimensionless, dimensionless, then mm of each lung above its dome, and of the recess below it
CHANNELS = ("attenuation", "bone", "right", "left", "right recess", "left recess")
ATTENUATION = MAPS["bilinear"]
BONE_HU = 150.0  # above: bone or contrast medium
FIELD = (1.05, 1.8)  # range of the field, in units of the larger side of the lungs
TURN_DEGREES, TILT_DEGREES = 8.0, 8.0
SHARE_AP = 0.35
SHARE_OTHER = 0.2  # of pictures that are no frontal chest X-ray
CHUNK = 50  # DRRs in a file
KEPT = 16  # volumes in the memory of a process

Load = Callable[[], tuple[np.ndarray, tuple[float, float, float]]]


@dataclass(frozen=True)
class LungVolume:
    """`CHANNELS` of one chest, cropped to its scanned slices."""

    channels: Float[Tensor, "6 d h w"]
    spacing: tuple[float, float, float]
    centre: Float[Tensor, "3"]  # mm, of the lungs relative to the centre of the volume
    extent: tuple[float, float, float]  # mm, of the lungs


def lung_volume(hu: Float[np.ndarray, "d h w"], spacing: tuple[float, float, float]) -> LungVolume | None:
    """`CHANNELS` of a CT; None if it shows fewer than two lungs."""
    scanned = np.flatnonzero((hu > AIR_HU / 2).any(axis=(1, 2)))
    if not len(scanned):
        return None
    hu = hu[scanned[0] : scanned[-1] + 1].astype(np.float32)
    sides = split_lungs(segment_lungs(hu, spacing))
    if sides is None:
        return None
    hu = torch.from_numpy(hu)
    mu = ATTENUATION.of(hu)
    bone = (ATTENUATION.dense - ATTENUATION.water) * (hu - BONE_HU).clamp(min=0.0) / 1000.0
    above = [above_dome(side, outer) for side, outer in zip(sides, OUTER, strict=True)]
    sides = torch.from_numpy(np.stack([*above, *(s & ~a for s, a in zip(sides, above, strict=True))])).float()
    sides[:, [0, -1]] = 0.0  # the last slices continue beyond the volume
    index = torch.nonzero(sides.sum(dim=0) > 0).float()
    low, high = index.min(dim=0).values, index.max(dim=0).values + 1
    size = torch.tensor(spacing)
    centre = ((low + high) / 2 - torch.tensor(hu.shape) / 2) * size
    extent = tuple(((high - low) * size).tolist())
    return LungVolume(torch.cat([torch.stack([mu, bone]), sides]), tuple(spacing), centre, extent)


def random_drr(volume: LungVolume, rng: np.random.Generator, size: int) -> Float[Tensor, "6 s s"]:
    """`CHANNELS` of a randomly deformed chest at a random frontal pose, around its lungs, or a counterexample."""
    if rng.random() < SHARE_OTHER:
        return counterexample(volume.channels, volume.spacing, volume.extent, rng, size)
    view = "AP" if rng.random() < SHARE_AP else "PA"
    deformation = Deformation(rng)
    extent = tuple(e * math.exp(rng.uniform(-0.1, 0.1)) for e in volume.extent)
    pose = view_pose(tuple(1.1 * e for e in extent), view)
    field = rng.uniform(*FIELD) * max(extent[0], extent[2]) * float(pose[0] / pose[1])
    pose[7], pose[8] = field, math.copysign(field, float(pose[8]))
    pose[2] += rng.uniform(-1, 1) * TURN_DEGREES
    pose[3] += rng.uniform(-1, 1) * TILT_DEGREES
    pose[4:7] = volume.centre + torch.from_numpy(rng.uniform(-0.08, 0.08, 3).astype(np.float32)) * field
    return project_volumes(volume.channels, volume.spacing, pose, (size, size), deformation)


class RenderedDrrs(Dataset):
    """DRRs `(6, s, s)` by number, read from `folder`; those that are missing there are rendered first.

    Args:
        volumes: for each DRR a name, with the hash of the content, and a function that returns HU and spacing.
        workers: processes that render.

    Raises UserError if a volume shows no two lungs.
    """

    def __init__(self, volumes: Sequence[tuple[str, Load]], size: int, seed: int, folder: Path, workers: int | None):
        self.count, self.paths = len(volumes), []
        chunks = [list(range(i, min(i + CHUNK, self.count))) for i in range(0, self.count, CHUNK)]
        for chunk in chunks:
            settings = [VERSION, size, seed, chunk[0], [volumes[i][0] for i in chunk]]
            key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
            self.paths.append(Path(folder) / f"lung-drrs-{key}.safetensors")
        todo = [pair for pair in zip(chunks, self.paths, strict=True) if not _is_whole(pair[1])]
        if todo:
            Path(folder).mkdir(parents=True, exist_ok=True)
            jobs = _Renderer(volumes, size, seed, todo)
            for problem in in_processes(jobs, workers, "Rendering DRRs with lung masks"):
                if problem:
                    raise UserError(problem)
        self._drrs = torch.cat([_read(path) for path in self.paths])

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Float[Tensor, "6 s s"]:
        return self._drrs[index].float()


class _Renderer(Dataset):
    """Renders and writes chunk `i`; the item is "" or an error message for the user."""

    def __init__(self, volumes: Sequence[tuple[str, Load]], size: int, seed: int, todo: list[tuple[list[int], Path]]):
        self.volumes, self.size, self.seed, self.todo = volumes, size, seed, todo
        self._read: dict[str, LungVolume] = {}

    def __len__(self) -> int:
        return len(self.todo)

    def __getitem__(self, job: int) -> str:
        chunk, path = self.todo[job]
        drawn = []
        for index in chunk:
            name, load = self.volumes[index]
            if name not in self._read:
                if len(self._read) == KEPT:
                    self._read.pop(next(iter(self._read)))
                self._read[name] = lung_volume(*load())
            if self._read[name] is None:
                return f"{name}: fewer than two lungs found in the CT; leave it out of the data set"
            rng = np.random.default_rng((self.seed, index))
            drawn.append(random_drr(self._read[name], rng, self.size).half())
        save_checked({"drrs": torch.stack(drawn)}, path)
        return ""


def _read(path: Path) -> Tensor:
    with open_checked(path) as file:
        return file.get_tensor("drrs")


def _is_whole(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        _read(path)
    except DamagedFile:
        return False
    return True
