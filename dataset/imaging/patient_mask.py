"""The patient in a CT volume, without table, mattress, clothes and wires.

Tables differ in shape, but all are thin shells: an opening by a ball removes them, and the largest component that is
left is the patient. Arms stay as far as the scan connects them with the trunk.
"""

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage
from skimage.morphology import convex_hull_image

from dataset.imaging.hu_window import AIR_HU
from dataset.imaging.lung_segmentation import GAS_BELOW_HU
from dataset.imaging.resampling import downsample
from dataset.imaging.volume import Volume

TISSUE_ABOVE_HU = -300.0
THIN_MM = 10.0  # thickness of what the opening removes
RESTORED_MM = 5.0  # outside the convex hull of the trunk: tissue this near to it, such as skin folds, is restored
SKIN_MM = 3.0  # of air around the tissue: partial volume of the skin
WORKING_MM = 2.5  # voxel size of the mask of a finer volume


def patient_mask(hu: Float[np.ndarray, "d h w"], spacing: tuple[float, float, float]) -> Bool[np.ndarray, "d h w"]:
    """Mask of the patient with lungs and other enclosed air; empty if there is no tissue.

    A field of view may cut the patient: lung at the edge of an axial slice is inside.
    """
    hu = np.asarray(hu, dtype=np.float32)
    tissue = hu > TISSUE_ABOVE_HU
    labels, count = ndimage.label(_opened(tissue, THIN_MM / 2.0, spacing))
    if count == 0:
        return np.zeros(tissue.shape, dtype=bool)
    trunk = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    hull = np.stack([convex_hull_image(axial) if axial.any() else axial for axial in trunk])  # the opening thins walls
    trunk |= tissue & (hull | _within(trunk, RESTORED_MM, spacing))
    return _within(np.stack([_filled(*axial) for axial in zip(trunk, hu, strict=True)]), SKIN_MM, spacing)


def without_surroundings(volume: Volume) -> Volume:
    """The volume with air in place of all that is outside the patient; unchanged if it has no tissue."""
    coarse = downsample(volume, WORKING_MM)
    mask = patient_mask(coarse.hu, coarse.spacing)
    if not mask.any():
        return volume
    places = [(np.arange(n) + 0.5) * m / n - 0.5 for n, m in zip(volume.hu.shape, mask.shape, strict=True)]
    fine = mask[
        np.ix_(*(np.clip(np.rint(place), 0, m - 1).astype(int) for place, m in zip(places, mask.shape, strict=True)))
    ]
    return Volume(np.where(fine, volume.hu, np.float32(AIR_HU)), volume.spacing, volume.centre, volume.direction)


def _opened(mask: np.ndarray, radius: float, spacing: tuple[float, float, float]) -> np.ndarray:
    """Opening by a ball of `radius` mm; beyond the first and the last slice the mask goes on, at the sides it ends."""
    reach = [int(np.ceil(radius / s)) + 1 for s in spacing]
    padded = np.pad(mask, [(reach[0], reach[0]), (0, 0), (0, 0)], mode="edge")
    padded = np.pad(padded, [(0, 0), (reach[1], reach[1]), (reach[2], reach[2])])
    opened = _within(ndimage.distance_transform_edt(padded, sampling=spacing) > radius, radius, spacing)
    return opened[tuple(slice(r, -r) for r in reach)] & mask


def _within(mask: np.ndarray, radius: float, spacing: tuple[float, float, float]) -> np.ndarray:
    """Voxels within `radius` mm of the mask."""
    return ndimage.distance_transform_edt(~mask, sampling=spacing) <= radius if mask.any() else mask


def _filled(tissue: np.ndarray, hu: np.ndarray) -> np.ndarray:
    """An axial slice of tissue with its holes filled; at the edge of the image, dark runs of lung are closed too."""
    framed = np.pad(tissue, 1)
    for side, edge, values in (
        (framed[0, 1:-1], tissue[0], hu[0]),
        (framed[-1, 1:-1], tissue[-1], hu[-1]),
        (framed[1:-1, 0], tissue[:, 0], hu[:, 0]),
        (framed[1:-1, -1], tissue[:, -1], hu[:, -1]),
    ):
        runs, count = ndimage.label(~edge)
        medians = ndimage.median(values, runs, range(1, count + 1))
        side[:] = edge | np.isin(runs, 1 + np.flatnonzero(np.asarray(medians) > GAS_BELOW_HU))
    return ndimage.binary_fill_holes(framed)[1:-1, 1:-1]
