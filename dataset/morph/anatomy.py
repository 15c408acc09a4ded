"""The parts of one chest that move and change on their own: lungs, diaphragm, heart, shoulders, chest wall, iodine."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from common.errors import UserError
from dataset.imaging.coverage import NOT_SCANNED_HU, fill
from dataset.imaging.iodine import remove_iodine
from dataset.imaging.lung_segmentation import segment_lungs
from dataset.imaging.patient_mask import SIDES, slice_hulls
from dataset.imaging.resampling import downsample
from dataset.imaging.volume import Volume
from dataset.morph.registration import FIELD, GRID
from dataset.morph.velocity import identity

FINEST_MM = 2.0  # voxels of a volume that was scanned throughout; finer ones are averaged
DIAPHRAGM, HEART, SHOULDERS = 0.3, 0.65, 0.75  # heights in the lungs: below, below, above
BLUR_MM = 12.0  # standard deviation of the border between a part that moves and its surroundings
DEEPEST_MM = 80.0  # distance from the lungs at which the chest wall stops to grow
WALL_SMOOTHING_MM = 10.0  # of the direction in which the wall grows


@dataclass
class Anatomy:
    """A chest for morphing. `parts` are weights in [0, 1] on `FIELD`, `wall` a velocity in mm for a growth of 1."""

    tissue: Float[Tensor, "c d h w"]  # HU, the part of it that is iodine and, unless all were scanned, scanned voxels
    coarse: Float[Tensor, "d h w"]  # HU on `GRID`, for registration
    coarse_lungs: Float[Tensor, "1 d h w"]  # on `GRID`
    extent: tuple[float, float, float]  # mm (D, H, W)
    margins: Float[np.ndarray, "2 3"]  # mm from the lungs to the faces: low and high, along D, H, W
    parts: dict[str, Float[Tensor, "d h w"]]  # weights by name
    wall: Float[Tensor, "3 d h w"]

    @property
    def nbytes(self) -> int:
        """Size of its arrays in memory."""
        return sum(
            part.nbytes for part in (self.tissue, self.coarse, self.coarse_lungs, *self.parts.values(), self.wall)
        )


def describe_anatomy(volume: Volume, name: str) -> Anatomy:
    """The anatomy of a volume in HU, marked where it was not scanned; UserError if it shows no lungs."""
    volume = downsample(volume, FINEST_MM) if (volume.hu != NOT_SCANNED_HU).all() else volume
    spacing = volume.spacing
    hu, scanned = fill(volume.hu)
    lungs = np.asarray(segment_lungs(hu, spacing))
    if not lungs.any():
        raise UserError(f"{name}: no lungs found, so it cannot be morphed; remove it from the training patients")
    bare = np.asarray(remove_iodine(hu, spacing), dtype=np.float32)
    channels = [hu, hu - bare, *([] if scanned.all() else [scanned])]
    tissue = torch.from_numpy(np.stack(channels, axis=-1).astype(np.float32)).movedim(
        -1, 0
    )  # channels last: sampled faster
    mask = torch.from_numpy(lungs.astype(np.float32))[None]
    coarse = _onto(torch.cat([tissue[:1], mask]), GRID)
    faces = lung_faces(coarse[1:] > 0.5)
    margins = np.array([faces[0] + 1.0, 1.0 - faces[1]]) * np.array(volume.extent) / 2.0
    parts, wall = _parts(_onto(mask, FIELD)[0].numpy() > 0.5, volume.extent)
    return Anatomy(tissue, coarse[0], coarse[1:], volume.extent, margins, parts, wall)


def lung_faces(lungs: Bool[Tensor, "1 d h w"]) -> Float[np.ndarray, "2 3"]:
    """Box coordinates of the low and the high faces of the box of a mask, along D, H, W."""
    box = ndimage.find_objects(lungs[0].numpy().astype(np.uint8))[0]
    return np.array([(part.start, part.stop) for part in box]).T * 2.0 / np.array(lungs.shape[1:]) - 1.0


def _onto(volumes: Tensor, size: tuple[int, int, int]) -> Tensor:
    """Resized with a low-pass filter."""
    sigma = [max(0.0, (n / m - 1.0) / 2.0) for n, m in zip(volumes.shape[1:], size, strict=True)]
    smooth = torch.from_numpy(ndimage.gaussian_filter(volumes.numpy(), (0.0, *sigma), mode="nearest"))
    return F.interpolate(smooth[None], size=size, mode="trilinear", align_corners=False)[0]


def _parts(lungs: Bool[np.ndarray, "d h w"], extent: tuple[float, float, float]) -> tuple[dict[str, Tensor], Tensor]:
    spacing = np.array(extent) / np.array(lungs.shape)
    box = ndimage.find_objects(lungs.astype(np.uint8))[0]
    z, y, x = np.meshgrid(*(np.arange(n) for n in lungs.shape), indexing="ij")
    height = (z - box[0].start) / (box[0].stop - box[0].start)
    middle = (box[2].start + box[2].stop) / 2.0
    inside = (y >= box[1].start) & (y < box[1].stop) & (x >= box[2].start) & (x < box[2].stop)
    between = inside & ~lungs & (np.abs(x - middle) * spacing[2] < 70.0) & (y < (box[1].start + 2 * box[1].stop) / 3.0)
    masks = {
        "right_diaphragm": inside & (height < DIAPHRAGM) & (x < middle),
        "left_diaphragm": inside & (height < DIAPHRAGM) & (x >= middle),
        "heart": between & (height > 0.1) & (height < HEART),
        "shoulders": ~lungs & (height > SHOULDERS),
        "right_lung": lungs & (x < middle),
        "left_lung": lungs & (x >= middle),
    }
    sigma = BLUR_MM / spacing
    parts = {
        name: torch.from_numpy(ndimage.gaussian_filter(mask.astype(np.float32), sigma, mode="nearest"))
        for name, mask in masks.items()
    }
    # the wall grows away from the convex hull of the lungs, which contains heart and spine
    hull = slice_hulls(lungs, SIDES)
    hull[: box[0].start], hull[box[0].stop :] = hull[box[0].start], hull[box[0].stop - 1]
    distance = ndimage.distance_transform_edt(~hull, sampling=spacing)
    smooth = ndimage.gaussian_filter(distance, WALL_SMOOTHING_MM / spacing, mode="nearest")
    _, back, left = np.gradient(smooth, *spacing)
    wall = np.stack([left, back, np.zeros_like(left)]) * np.minimum(distance, DEEPEST_MM)
    return parts, torch.from_numpy(wall.astype(np.float32))


def centre_of(part: Float[Tensor, "d h w"]) -> Float[Tensor, "3"]:
    """Centre of gravity of a weight in box coordinates (x, y, z)."""
    return (identity(tuple(part.shape)) * part).sum(dim=(1, 2, 3)) / part.sum().clamp(min=1e-6)
