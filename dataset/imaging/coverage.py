"""What a scan did not cover: voxels marked by `NOT_SCANNED_HU`, which losses and metrics leave out."""

import numpy as np
from jaxtyping import Bool, Shaped

from dataset.imaging.hu_window import AIR_HU
from dataset.imaging.lung_segmentation import GAS_BELOW_HU
from dataset.imaging.resampling import resample
from dataset.imaging.volume import Volume

NOT_SCANNED_HU = -4096  # below the padding values of scanners (-1024, -2000, -2048, -3024), which mean air
SCANNED_SHARE = 0.99  # of a resampled voxel; with less it is marked

Padding = tuple[tuple[int, int], ...]


def fill(hu: Shaped[np.ndarray, "d h w"]) -> tuple[Shaped[np.ndarray, "d h w"], Bool[np.ndarray, "d h w"]]:
    """HU without marks, and the mask of scanned voxels; the array itself if all are scanned.

    A marked voxel gets the HU of the nearest scanned voxel of its column along D, that is, of the last slice beyond
    the end of a scan; a column without any scanned voxel gets air.
    """
    scanned = hu != NOT_SCANNED_HU
    if scanned.all():
        return hu, scanned
    place = np.arange(len(hu), dtype=np.int32)[:, None, None]
    below = np.maximum.accumulate(np.where(scanned, place, -1), axis=0)
    above = np.minimum.accumulate(np.where(scanned, place, 2 * len(hu))[::-1], axis=0)[::-1]
    nearest = np.where((below >= 0) & (place - below <= above - place), below, above)
    filled = np.take_along_axis(hu, np.minimum(nearest, len(hu) - 1), axis=0)
    filled[filled == NOT_SCANNED_HU] = AIR_HU
    return filled, scanned


def at_least_air(hu: Shaped[np.ndarray, "d h w"]) -> Shaped[np.ndarray, "d h w"]:
    """HU with padding such as -2000 raised to air; marks stay. The array itself if there is no padding."""
    if hu.min() >= AIR_HU:
        return hu
    return np.where(hu == NOT_SCANNED_HU, hu, np.maximum(hu, np.asarray(AIR_HU, dtype=hu.dtype)))


def padded(hu: Shaped[np.ndarray, "d h w"], padding: Padding) -> Shaped[np.ndarray, "d h w"]:
    """HU with `((before, after), …)` more voxels along each axis.

    Beyond the first and the last slice they are marked as not scanned. Beside the field of view they are air, except
    that they are marked where it cuts the patient, that is, where the outermost voxel is no air.
    """
    if not np.any(padding):
        return hu
    sides = np.pad(hu, [(0, 0), *padding[1:]], mode="edge")
    outside = np.ones(sides.shape, dtype=bool)
    (top, _), (left, _) = padding[1:]
    outside[:, top : top + hu.shape[1], left : left + hu.shape[2]] = False
    cut = outside & ((sides > GAS_BELOW_HU) | (sides == NOT_SCANNED_HU))
    sides[outside] = AIR_HU
    sides[cut] = NOT_SCANNED_HU
    return np.pad(sides, [padding[0], (0, 0), (0, 0)], constant_values=NOT_SCANNED_HU)


def cropped(volume: Volume, box: tuple[slice, slice, slice]) -> Volume:
    """The part of a volume in a box of voxels, with its position; `padded` where the box exceeds the volume.

    A negative start of a slice lies before the first voxel.
    """
    sizes = volume.hu.shape
    padding = tuple((max(0, -part.start), max(0, part.stop - n)) for part, n in zip(box, sizes, strict=True))
    inside = tuple(slice(max(0, part.start), min(n, part.stop)) for part, n in zip(box, sizes, strict=True))
    middle = [(part.start + part.stop - n) / 2.0 for part, n in zip(box, sizes, strict=True)]
    axes = volume.affine[:3, :3][:, ::-1]  # mm (RAS) a voxel along D, H, W
    centre = np.asarray(volume.centre) + axes @ np.array(middle)
    hu = padded(volume.hu[inside], padding)
    return Volume(hu, volume.spacing, tuple(float(c) for c in centre), volume.direction)


def resample_scanned(
    volume: Volume, size: tuple[int, int, int], spacing: tuple[float, float, float] | None = None
) -> Volume:
    """`resample` of a volume with marks: voxels of which less than `SCANNED_SHARE` was scanned are marked.

    With `spacing` a volume that is too small is `padded` around its centre first.
    """
    if spacing is not None:
        short = [max(0.0, n * s - e) for n, s, e in zip(size, spacing, volume.extent, strict=True)]
        grow = [int(np.ceil(mm / 2.0 / s - 1e-6)) for mm, s in zip(short, volume.spacing, strict=True)]
        volume = cropped(volume, tuple(slice(-g, n + g) for g, n in zip(grow, volume.hu.shape, strict=True)))
    filled, scanned = fill(volume.hu)
    small = resample(Volume(filled, volume.spacing, volume.centre), size, spacing)
    if not scanned.all():
        share = resample(Volume(scanned.astype(np.float32), volume.spacing, volume.centre), size, spacing)
        small.hu[share.hu < SCANNED_SHARE] = NOT_SCANNED_HU
    return small
