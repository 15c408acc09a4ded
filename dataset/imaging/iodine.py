"""Detection and removal of iodinated contrast medium in a CT, since radiographs do not show it.

Voxels above `IODINE_HU` inside the chest cavity, except the spine, are blood with iodine; without lungs, none are.
"""

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from dataset.imaging.lung_segmentation import segment_lungs, within
from dataset.imaging.patient_mask import SIDES, slice_hulls
from dataset.imaging.volume import Volume

IODINE_HU = 150.0  # above soft tissue and unenhanced blood
BLOOD_HU = 40.0  # replaces iodine
CONTRAST_ML = 40.0  # threshold of a contrast CT, above the volume of calcium and misclassified bone
RIM_MM = 4.0  # margin of the cavity that excludes the ribs
SPINE_CORE_MM = (12.0, 40.0)  # half width, depth from the back of the lungs: always vertebra
SPINE_REACH_MM = (28.0, 62.0)  # beyond: never vertebra
VERTEBRA_MM = 35.0  # width
ONE_SIDED = 0.2  # area ratio of the lungs below which a slice counts as one-sided
THICKEST_MM = 30.0  # depth of a dense voxel below its surface: vertebrae and aneurysms have less
BLOOMING_MM = 2.5  # partial volume around iodine
SMOOTH_MM = 4.0  # standard deviation of the Gaussian that suppresses noise, calcium and thin bone
MIDDLE = (0.3, 0.75)  # range of the lung height, from below: heart and pulmonary trunk
ACROSS = (0.33, 0.67)  # range of the lung width
FRONT = (0.15, 0.6)  # range of the lung depth, from the front: between sternum and spine
BLOOD_ABOVE_HU = 0.0  # excludes fat and lung
PERCENTILE = 90.0  # excludes heart walls and oesophagus, which are darker than enhanced blood
LEAST_VOXELS = 100


def iodine_mask(hu: Float[np.ndarray, "d h w"], spacing: tuple[float, float, float]) -> Bool[np.ndarray, "d h w"]:
    """Mask of the voxels above `IODINE_HU` in heart and vessels, between and inside the lungs.

    `hu` is not windowed. Vessels above the apices and below the bases of the lungs are outside the cavity and missing.
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
    before = (back[:, None, None] - rows) * spacing[1]  # mm anterior to the back of the lungs
    aside = np.abs(np.arange(hu.shape[2])[None, None, :] - middle) * spacing[2]
    core = (aside < SPINE_CORE_MM[0]) & (before < SPINE_CORE_MM[1])
    far = (before > SPINE_REACH_MM[1]) | ((aside > SPINE_REACH_MM[0]) & (before > SPINE_CORE_MM[1]))
    markers = np.zeros(hu.shape, dtype=np.int32)
    markers[dense & (~cavity | core)] = 1
    markers[dense & cavity & far] = 2
    return _flooded(dense, markers, spacing) == 2


def _flooded(dense: np.ndarray, markers: np.ndarray, spacing: tuple) -> np.ndarray:
    """The markers, grown into the unmarked dense voxels: the aorta touches the spine, and is cut off at the neck.

    Only the surroundings of the unmarked voxels are flooded, as the others are not changed.
    """
    from skimage.segmentation import watershed  # late: generation imports this module and needs no scikit-image

    open_voxels = ndimage.find_objects((dense & (markers == 0)).astype(np.uint8))
    if not open_voxels:
        return markers
    reach = [int(np.ceil(THICKEST_MM / step)) for step in spacing]
    box = tuple(slice(max(0, part.start - n), part.stop + n) for part, n in zip(open_voxels[0], reach, strict=True))
    thickness = ndimage.distance_transform_edt(dense[box], sampling=spacing)
    found = markers.copy()
    found[box] = watershed(-thickness, markers[box], mask=dense[box])
    return found


def remove_iodine(hu: Float[np.ndarray, "d h w"], spacing: tuple[float, float, float]) -> Float[np.ndarray, "d h w"]:
    """The volume with iodine and its partial-volume margin set to `BLOOD_HU`; unchanged without iodine."""
    hu = np.asarray(hu, dtype=np.float32)
    iodine = iodine_mask(hu, spacing)
    if not iodine.any():
        return hu
    near = within(iodine, BLOOMING_MM, spacing)
    bone = (hu > IODINE_HU) & ~iodine
    return np.where(near & ~bone & (hu > BLOOD_HU), BLOOD_HU, hu).astype(np.float32)


def iodine_ml(hu: Float[np.ndarray, "d h w"], spacing: tuple[float, float, float]) -> float:
    """Volume of `iodine_mask` in ml."""
    return float(iodine_mask(hu, spacing).sum() * np.prod(spacing) / 1000.0)


def _middle_column(dense: np.ndarray, lungs: np.ndarray, spacing: tuple) -> float:
    """Column of the spine: maximum of dense voxels posterior to the lung centre, after smoothing."""
    slices = lungs.any(axis=(1, 2))
    behind = int(np.nonzero(lungs)[1].mean())
    profile = dense[slices, behind:].sum(axis=(0, 1)).astype(float)
    return float(ndimage.gaussian_filter1d(profile, VERTEBRA_MM / 2.0 / spacing[2], mode="constant").argmax())


def _back_of_lungs(lungs: np.ndarray, spacing: tuple) -> np.ndarray:
    """Last row with lung in each slice, `(D,)`, the maximum over 15 mm of neighbouring slices."""
    rows = np.where(lungs.any(axis=2), np.arange(lungs.shape[1]), -1).max(axis=1)
    rows = ndimage.maximum_filter1d(rows, 2 * int(np.ceil(15.0 / spacing[0])) + 1)
    return np.where(rows < 0, rows.max(), rows)


def _cavity(lungs: np.ndarray, middle: float, spacing: tuple) -> np.ndarray:
    """Eroded convex hull of the lungs in each axial slice; the other lung, mirrored, replaces a missing one."""
    both = lungs.copy()
    split = int(round(middle))
    for z in np.flatnonzero(lungs.any(axis=(1, 2))):
        plane = lungs[z]
        right, left = int(plane[:, :split].sum()), int(plane[:, split:].sum())
        if min(right, left) < ONE_SIDED * max(right, left):
            rows, columns = np.nonzero(plane)
            columns = np.round(2 * middle - columns).astype(int)
            inside = (columns >= 0) & (columns < plane.shape[1])
            both[z, rows[inside], columns[inside]] = True
    outside = np.pad(~slice_hulls(both, SIDES), [(0, 0), (1, 1), (1, 1)], constant_values=True)
    return ~within(outside, RIM_MM, (np.inf, *spacing[1:]))[:, 1:-1, 1:-1]  # in the plane


def central_vessel_hu(volume: Volume, lungs: Bool[np.ndarray, "d h w"]) -> float | None:
    """90th percentile of the HU of soft tissue between the lungs, in the whole volume without lungs; None without any.

    It is about 40 to 70 without contrast and 150 to 500 in an angiogram. `lungs` is a mask on the same grid.
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
