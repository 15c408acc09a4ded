"""The patient in a CT volume, without table, mattress, clothes and wires.

Tables differ in shape, but all are thin shells: an opening by a ball removes them, and the largest component that is
left is the patient. Arms stay as far as the scan connects them with the trunk.
"""

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from dataset.imaging.coverage import NOT_SCANNED_HU, fill
from dataset.imaging.hu_window import AIR_HU
from dataset.imaging.lung_segmentation import GAS_BELOW_HU, IN_PLANE, open_air, within
from dataset.imaging.resampling import downsample
from dataset.imaging.volume import Volume

TISSUE_ABOVE_HU = -300.0
OPEN_LUNG_ABOVE_HU = -900.0  # of a lung whose wall has a gap; foam of mattresses is below
THIN_MM = 10.0  # thickness of what the opening removes
RESTORED_MM = 5.0  # outside the convex hull of the trunk: tissue this near to it, such as skin folds, is restored
SKIN_MM = 3.0  # of air around the tissue: partial volume of the skin
WORKING_MM = 2.5  # voxel size of the mask of a finer volume
CORNERS = ((-0.5, -0.5), (-0.5, 0.5), (0.5, -0.5), (0.5, 0.5))
SIDES = ((-0.5, 0.0), (0.5, 0.0), (0.0, -0.5), (0.0, 0.5))
ON_LINE = 1e-9  # voxels: a centre so near to the border of a hull is in it


def patient_mask(hu: Float[np.ndarray, "d h w"], spacing: tuple[float, float, float]) -> Bool[np.ndarray, "d h w"]:
    """Mask of the patient with lungs and other enclosed air; empty if there is no tissue.

    A field of view may cut the patient: lung at the edge of an axial slice is inside.
    """
    hu = np.asarray(hu, dtype=np.float32)
    tissue = hu > TISSUE_ABOVE_HU
    trunk = _largest(_opened(tissue, THIN_MM / 2.0, spacing))
    if not trunk.any():
        return trunk
    hull = slice_hulls(trunk)
    solid = tissue | _inside(_each_filled(tissue, hu) & ~tissue, hull)  # lungs support thin walls
    solid |= _opened((hu > OPEN_LUNG_ABOVE_HU) & hull, THIN_MM / 2.0, spacing)  # and fill gaps of walls that thin
    trunk = _largest(_opened(solid, THIN_MM / 2.0, spacing))
    trunk |= tissue & (slice_hulls(trunk) | within(trunk, RESTORED_MM, spacing))
    return within(_each_filled(trunk, hu), SKIN_MM, spacing)


def without_surroundings(volume: Volume) -> Volume:
    """The volume with air in place of all that is outside the patient; unchanged if it has no tissue."""
    coarse = downsample(Volume(continued(volume.hu), volume.spacing), WORKING_MM)
    return only_patient(volume, patient_mask(coarse.hu, coarse.spacing))


def continued(hu: Float[np.ndarray, "d h w"]) -> Float[np.ndarray, "d h w"]:
    """HU without marks: slices repeated beyond the scan (`coverage.fill`), tissue where it cuts the patient's side."""
    filled, scanned = fill(hu)
    if scanned.all():
        return filled
    return np.where(~scanned & scanned.any(axis=(1, 2))[:, None, None], np.float32(0.0), filled)


def only_patient(volume: Volume, patient: Bool[np.ndarray, "p q r"]) -> Volume:
    """The volume with air outside a mask on another grid of the same extent, unchanged if it is empty; marks stay."""
    if not patient.any():
        return volume
    places = [(np.arange(n) + 0.5) * m / n - 0.5 for n, m in zip(volume.hu.shape, patient.shape, strict=True)]
    index = [np.clip(np.rint(at), 0, m - 1).astype(int) for at, m in zip(places, patient.shape, strict=True)]
    kept = patient[np.ix_(*index)] | (volume.hu == NOT_SCANNED_HU)
    return Volume(np.where(kept, volume.hu, np.float32(AIR_HU)), volume.spacing, volume.centre, volume.direction)


def _opened(mask: np.ndarray, radius: float, spacing: tuple[float, float, float]) -> np.ndarray:
    """Opening by a ball of `radius` mm; beyond the first and the last slice the mask goes on, at the sides it ends."""
    reach = [int(np.ceil(radius / s)) + 1 for s in spacing]
    padded = np.pad(mask, [(reach[0], reach[0]), (0, 0), (0, 0)], mode="edge")
    padded = np.pad(padded, [(0, 0), (reach[1], reach[1]), (reach[2], reach[2])])
    opened = within(~within(~padded, radius, spacing), radius, spacing)
    return opened[tuple(slice(r, -r) for r in reach)] & mask


def _largest(mask: np.ndarray) -> np.ndarray:
    """The largest component."""
    labels, _ = ndimage.label(mask)
    sizes = np.bincount(labels[mask], minlength=1)
    return labels == sizes.argmax() if mask.any() else mask


def slice_hulls(mask: Bool[np.ndarray, "d h w"], points: tuple = CORNERS) -> Bool[np.ndarray, "d h w"]:
    """Voxels with their centre in the convex hull of the mask in their axial slice.

    `points` are offsets `(row, column)` of the points that stand for a voxel: its `CORNERS`, or the middles of its
    `SIDES`, with which the hulls are those of `skimage.morphology.convex_hull_image`.
    """
    columns, mirrored = np.arange(mask.shape[2]), [(row, -column) for row, column in points]
    first = _first_columns(mask, points)
    last = mask.shape[2] - 1 - _first_columns(mask[:, :, ::-1], mirrored)
    return (columns >= first[..., None] - ON_LINE) & (columns <= last[..., None] + ON_LINE)


def _first_columns(mask: np.ndarray, points) -> np.ndarray:
    """Column where the hull of each axial slice begins in each row, `(D, H)`; infinite in rows outside the hull.

    Gift wrapping (Jarvis, "On the identification of the convex hull of a finite set of points in the plane",
    Information Processing Letters 2, 1973) in all slices at once, from the first row to the last.
    """
    outermost = np.where(mask.any(axis=2), mask.argmax(axis=2), np.inf)
    depth, rows = outermost.shape
    corners = np.full((depth, 2 * rows + 1), np.inf)  # at every half row
    for row, column in points:
        place = corners[:, int(1 + 2 * row) :: 2][:, :rows]
        np.minimum(place, outermost + column, out=place)
    known, steps = np.isfinite(corners), np.arange(corners.shape[1])
    at, end, border = known.argmax(axis=1), len(steps) - 1 - known[:, ::-1].argmax(axis=1), corners.copy()
    left = np.flatnonzero(known.any(axis=1))
    while len(left):
        start, run = corners[left, at[left], None], steps - at[left, None]
        slopes = np.divide(corners[left] - start, run, out=np.full(run.shape, np.inf), where=run > 0)
        reached = len(steps) - 1 - slopes[:, ::-1].argmin(axis=1)  # the farthest of corners on one line
        line = start + slopes[np.arange(len(left)), reached, None] * run
        border[left] = np.where((run >= 0) & (steps <= end[left, None]), line, border[left])
        at[left] = reached
        left = left[reached < end[left]]
    return border[:, 1::2]


def _inside(enclosed: np.ndarray, hull: np.ndarray) -> np.ndarray:
    """Components, slice by slice, of which most lies in the hull: lungs, but not the cavity of a table."""
    labels, count = ndimage.label(enclosed, structure=IN_PLANE)
    found = labels[enclosed]
    sizes = np.bincount(found, minlength=count + 1)
    kept = 2 * np.bincount(found, weights=hull[enclosed], minlength=count + 1) > sizes
    kept[0] = False
    return kept[labels]


def _each_filled(tissue: np.ndarray, hu: np.ndarray) -> np.ndarray:
    """Axial slices of tissue with their holes filled; at the edge of the image, dark runs of lung are closed too."""
    framed = np.pad(tissue, [(0, 0), (1, 1), (1, 1)])
    for side, edges, values in (
        (framed[:, 0, 1:-1], tissue[:, 0], hu[:, 0]),
        (framed[:, -1, 1:-1], tissue[:, -1], hu[:, -1]),
        (framed[:, 1:-1, 0], tissue[:, :, 0], hu[:, :, 0]),
        (framed[:, 1:-1, -1], tissue[:, :, -1], hu[:, :, -1]),
    ):
        side[:] = edges | lung_runs(edges, values)
    return ~open_air(~framed)[:, 1:-1, 1:-1]


def lung_runs(edges: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Runs without tissue in the rows of `edges` whose median is above gas, `(n, m)`."""
    dark = np.pad(~edges, [(0, 0), (0, 1)])  # the last column separates the runs of two rows
    hu = np.pad(values, [(0, 0), (0, 1)]).ravel()
    start, stop = np.flatnonzero(np.diff(dark.ravel(), prepend=False, append=False)).reshape(-1, 2).T
    above = np.concatenate([[0], np.cumsum(hu > GAS_BELOW_HU)])
    majority = 2 * (above[stop] - above[start]) - (stop - start)
    lung = majority > 0
    for tie in np.flatnonzero(majority == 0):  # the median is the mean of the two middle values
        lung[tie] = np.median(hu[start[tie] : stop[tie]]) > GAS_BELOW_HU
    change = np.zeros(dark.size + 1, dtype=np.int8)
    change[start[lung]], change[stop[lung]] = 1, -1
    return np.cumsum(change[:-1], dtype=np.int8).astype(bool).reshape(dark.shape)[:, :-1]
