"""Contrast medium in a CT, and a CT without it: no radiograph shows iodine, so a DRR should not either.

Thresholds and anatomy alone, no weights: what is denser than `IODINE_HU` inside the chest cavity and is not the spine
is blood with iodine. Where the lungs are not found nothing is taken for iodine.
"""

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage
from skimage.morphology import convex_hull_image
from skimage.segmentation import watershed

from dataset.imaging.lung_segmentation import segment_lungs
from dataset.imaging.volume import Volume

IODINE_HU = 150.0  # denser than any soft tissue and than blood without contrast
BLOOD_HU = 40.0  # what it is set to
CONTRAST_ML = 40.0  # more iodine than this makes a CT a contrast CT: calcium and mistaken bone hold less
RIM_MM = 4.0  # ribs lie this near to the lungs
SPINE_CORE_MM = (12.0, 40.0)  # half width, depth before the back of the lungs: certainly vertebra
SPINE_REACH_MM = (28.0, 62.0)  # beyond these there is certainly no vertebra
VERTEBRA_MM = 35.0  # width
ONE_SIDED = 0.2  # share of the smaller side below which the slice shows one lung only
BLOOMING_MM = 2.5  # partial volume around iodine


def bone_mask(hu: Float[np.ndarray, "d h w"], spacing: tuple[float, float, float]) -> Bool[np.ndarray, "d h w"]:
    """Voxels above `IODINE_HU` that are not iodine: ribs, spine, shoulders, metal; all that lies below the lungs."""
    dense = np.asarray(hu) > IODINE_HU
    return dense & ~iodine_mask(hu, spacing)


def iodine_mask(hu: Float[np.ndarray, "d h w"], spacing: tuple[float, float, float]) -> Bool[np.ndarray, "d h w"]:
    """Voxels above `IODINE_HU` in heart and vessels, between and inside the lungs.

    `hu` is never windowed. The mask is empty where no lungs are found. Vessels above the lungs' tips and below their
    bases are not found: they are outside of the cavity, as bone is.
    """
    hu, spacing = np.asarray(hu, dtype=np.float32), tuple(float(s) for s in spacing)
    dense = hu > IODINE_HU
    lungs = segment_lungs(hu, spacing)
    if not lungs.any() or not dense.any():
        return np.zeros_like(dense)
    middle = _middle_column(dense, lungs, spacing)
    cavity = _cavity(lungs, middle, spacing)
    back = _back_of_lungs(lungs, spacing)
    rows = np.arange(hu.shape[1])[None, :, None]
    before = (back[:, None, None] - rows) * spacing[1]  # mm in front of the back of the lungs
    aside = np.abs(np.arange(hu.shape[2])[None, None, :] - middle) * spacing[2]
    core = (aside < SPINE_CORE_MM[0]) & (before < SPINE_CORE_MM[1])
    far = (before > SPINE_REACH_MM[1]) | ((aside > SPINE_REACH_MM[0]) & (before > SPINE_CORE_MM[1]))
    markers = np.zeros(hu.shape, dtype=np.int32)
    markers[dense & (~cavity | core)] = 1
    markers[dense & cavity & far] = 2
    # The aorta lies on the spine: what is neither is parted at the neck between them.
    thickness = ndimage.distance_transform_edt(dense, sampling=spacing)
    return watershed(-thickness, markers, mask=dense) == 2


def remove_iodine(hu: Float[np.ndarray, "d h w"], spacing: tuple[float, float, float]) -> Float[np.ndarray, "d h w"]:
    """The volume with the iodine, and what it blurs into, set to the HU of blood; unchanged without iodine."""
    hu = np.asarray(hu, dtype=np.float32)
    iodine = iodine_mask(hu, spacing)
    if not iodine.any():
        return hu
    near = ndimage.distance_transform_edt(~iodine, sampling=spacing) <= BLOOMING_MM
    bone = (hu > IODINE_HU) & ~iodine
    return np.where(near & ~bone & (hu > BLOOD_HU), BLOOD_HU, hu).astype(np.float32)


def iodine_ml(hu: Float[np.ndarray, "d h w"], spacing: tuple[float, float, float]) -> float:
    """How much of the chest cavity is filled by voxels that `iodine_mask` finds, in ml."""
    return float(iodine_mask(hu, spacing).sum() * np.prod(spacing) / 1000.0)


def _middle_column(dense: np.ndarray, lungs: np.ndarray, spacing: tuple) -> float:
    """Column of the spine: where most is dense, over a vertebra's width, behind the middle of the lungs."""
    slices = lungs.any(axis=(1, 2))
    behind = int(np.nonzero(lungs)[1].mean())
    profile = dense[slices, behind:].sum(axis=(0, 1)).astype(float)
    return float(ndimage.gaussian_filter1d(profile, VERTEBRA_MM / 2.0 / spacing[2], mode="constant").argmax())


def _back_of_lungs(lungs: np.ndarray, spacing: tuple) -> np.ndarray:
    """Last row with lung of each slice, `(D,)`, taken from neighbours where a slice shows less."""
    rows = np.where(lungs.any(axis=2), np.arange(lungs.shape[1]), -1).max(axis=1)
    reach = 2 * int(np.ceil(15.0 / spacing[0])) + 1
    rows = ndimage.maximum_filter1d(rows, reach)
    return np.where(rows < 0, rows.max(), rows)


def _cavity(lungs: np.ndarray, middle: float, spacing: tuple) -> np.ndarray:
    """Convex hull of the lungs in each axial slice, less its rim; a side without lung gets the mirrored other one."""
    cavity = np.zeros_like(lungs)
    split = int(round(middle))
    for z in np.flatnonzero(lungs.any(axis=(1, 2))):
        plane = lungs[z]
        right, left = int(plane[:, :split].sum()), int(plane[:, split:].sum())
        if min(right, left) < ONE_SIDED * max(right, left):
            mirrored = np.zeros_like(plane)
            rows, columns = np.nonzero(plane)
            columns = np.round(2 * middle - columns).astype(int)
            inside = (columns >= 0) & (columns < plane.shape[1])
            mirrored[rows[inside], columns[inside]] = True
            plane = plane | mirrored
        hull = convex_hull_image(plane)
        cavity[z] = ndimage.distance_transform_edt(np.pad(hull, 1), sampling=spacing[1:])[1:-1, 1:-1] > RIM_MM
    return cavity


SMOOTH_MM = 4.0  # deviation of the Gaussian: averages noise, calcium and thin bone away


MIDDLE = (0.3, 0.75)  # of the height of the lungs, from below: the heart and the pulmonary trunk


ACROSS = (0.33, 0.67)  # of their width


FRONT = (0.15, 0.6)  # of their depth from the front: between sternum and spine


BLOOD_ABOVE_HU = 0.0  # fat and lung are no blood


PERCENTILE = 90.0  # of what is left: heart walls and oesophagus are darker than blood with contrast


LEAST_VOXELS = 100


def central_vessel_hu(volume: Volume, lungs: Bool[np.ndarray, "d h w"]) -> float | None:
    """HU of the brightest tenth of the soft tissue between the lungs; None where there is none.

    About 40 to 70 without contrast, 150 to 500 in an angiography. `lungs` lies on the same grid; where it is empty
    the whole volume stands for it.
    """
    found = ndimage.find_objects(lungs.astype(np.uint8))
    box = found[0] if found else tuple(slice(0, n) for n in volume.hu.shape)
    part = tuple(
        slice(one.start + round(low * (one.stop - one.start)), one.start + round(high * (one.stop - one.start)))
        for one, (low, high) in zip(box, (MIDDLE, FRONT, ACROSS), strict=True)
    )
    smooth = ndimage.gaussian_filter(volume.hu[part], [SMOOTH_MM / s for s in volume.spacing])
    blood = smooth[(smooth > BLOOD_ABOVE_HU) & ~lungs[part]]
    return float(np.percentile(blood, PERCENTILE)) if blood.size >= LEAST_VOXELS else None
