"""Lung segmentation in CT volumes by threshold, connected components and morphology, without weights.

All steps work in mm on air enclosed by the body, so they suit real CT, phantoms and blurred generated volumes.
"""

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

LUNG_BELOW_HU = -400.0  # half way between lung and soft tissue: blur does not move the border
GAS_BELOW_HU = -945.0  # median below: gas outside the body or in the bowel
AIRWAY_AREA_MM2 = 900.0  # largest airway area in an axial slice; a trachea has 150 to 400
MIDLINE_MM = 30.0  # largest distance of the trachea from the body midline, below that of the apices
CLOSING_MM = 6.0  # radius: vessels of up to twice this diameter belong to the lung
SMALLEST_ML = 50.0
SMALLEST_SHARE = 0.1  # of the larger lung: smallest size of the second one
IN_PLANE = np.zeros((3, 3, 3), dtype=bool)  # neighbours in the axial slice
IN_PLANE[1] = ndimage.generate_binary_structure(2, 1)


def segment_lungs(hu: Float[np.ndarray, "d h w"], spacing: tuple[float, float, float]) -> Bool[np.ndarray, "d h w"]:
    """Mask of both lungs with their vessels, without trachea, extrapulmonary bronchi, bowel gas and table.

    It is empty if a window clips the lungs (above -400 HU) or no enclosed region is large enough. Consolidated lung is
    missing, and a lung in slices where the field of view cuts it.
    """
    hu, spacing = np.asarray(hu, dtype=np.float32), tuple(float(s) for s in spacing)
    voxel_ml = float(np.prod(spacing)) / 1000.0
    dark = hu < LUNG_BELOW_HU
    enclosed = dark & ~open_air(dark)
    tissue = np.cumsum((~dark).sum(axis=(0, 1)))
    middle = int(np.searchsorted(tissue, tissue[-1] / 2.0))  # median column of the body
    lungs = np.zeros_like(enclosed)
    if not enclosed.any():
        return lungs
    box = ndimage.find_objects(enclosed.view(np.uint8))[0]
    found = enclosed[box] & ~_airway(enclosed[box], middle - box[2].start, spacing)
    lungs[box] = _largest(found, hu[box], voxel_ml)
    if not lungs.any():
        return lungs
    return _closed(lungs, spacing) & ~(dark & ~lungs)


def open_air(dark: np.ndarray) -> np.ndarray:
    """Dark voxels connected to the edge of their axial slice within the slice."""
    labels, count = ndimage.label(dark, structure=IN_PLANE)
    outside = np.zeros(count + 1, dtype=bool)
    for side in (labels[:, 0], labels[:, -1], labels[:, :, 0], labels[:, :, -1]):
        outside[side.ravel()] = True
    outside[0] = False
    return outside[labels]


def within(mask: np.ndarray, radius: float, spacing: tuple[float, float, float]) -> np.ndarray:
    """Voxels within `radius` mm of the mask: the union of the mask shifted by all offsets of the ball."""
    reach = [min(int(radius / step), n - 1) for step, n in zip(spacing, mask.shape, strict=True)]
    distances = (np.array([k and k * step for k in range(n + 1)]) for n, step in zip(reach, spacing, strict=True))
    down, back, left = ((along**2).astype(np.float32) for along in distances)
    inside = (down[:, None, None] + back[:, None] + left <= np.float32(radius**2)).sum(axis=2)  # columns to each side
    runs = [mask]
    for k in range(1, reach[2] + 1):
        runs.append(_united(runs[-1].copy(), mask, k, 2))
    found = np.zeros_like(mask)
    for i, widths in enumerate(inside):
        if widths[0]:
            disc = runs[widths[0] - 1].copy()
            for j in range(1, np.count_nonzero(widths)):
                _united(disc, runs[widths[j] - 1], j, 1)
            _united(found, disc, i, 0)
    return found


def _united(mask: np.ndarray, other: np.ndarray, shift: int, axis: int) -> np.ndarray:
    """The mask, in place, with another one shifted by `shift` voxels to both sides of an axis."""
    to, of = mask.swapaxes(0, axis), other.swapaxes(0, axis)
    to[shift:] |= of[: len(of) - shift]
    to[: len(to) - shift] |= of[shift:]
    return mask


def _airway(enclosed: np.ndarray, middle: int, spacing: tuple[float, float, float]) -> np.ndarray:
    """Trachea and main bronchi outside the lung: components, small in each axial slice, that reach the midline."""
    labels, count = ndimage.label(enclosed, structure=IN_PLANE)
    columns, found = np.flatnonzero(enclosed) % enclosed.shape[2], labels[enclosed]
    voxels = np.bincount(found, minlength=count + 1)
    place = np.bincount(found, weights=columns, minlength=count + 1) / np.maximum(voxels, 1)
    small = voxels * spacing[1] * spacing[2] < AIRWAY_AREA_MM2
    small[0] = False
    central = small & (np.abs(place - middle) * spacing[2] < MIDLINE_MM)
    tubes, tube_count = ndimage.label(small[labels])
    is_airway = np.zeros(tube_count + 1, dtype=bool)
    is_airway[tubes[central[labels]]] = True
    is_airway[0] = False
    return is_airway[tubes]


def _largest(enclosed: np.ndarray, hu: np.ndarray, voxel_ml: float) -> np.ndarray:
    """The one or two largest components, without gas."""
    labels, count = ndimage.label(enclosed)
    volume = np.bincount(labels[enclosed], minlength=count + 1) * voxel_ml
    kept: list[int] = []
    for label in np.argsort(volume)[::-1]:
        reference = volume[kept[0]] * SMALLEST_SHARE if kept else 0.0
        if len(kept) == 2 or volume[label] < max(SMALLEST_ML, reference):
            break
        if np.median(hu[labels == label]) >= GAS_BELOW_HU:
            kept.append(int(label))
    return np.isin(labels, kept)


def _closed(mask: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """The mask after closing by a ball in mm and hole filling."""
    reach = [int(np.ceil(CLOSING_MM / s)) + 1 for s in spacing]
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    inner = np.pad(mask[box], [(r, r) for r in reach])
    closed = ~within(~within(inner, CLOSING_MM, spacing), CLOSING_MM, spacing)
    around, _ = ndimage.label(~(closed | inner))
    result = mask.copy()
    result[box] |= (around != around[0, 0, 0])[tuple(slice(r, -r) for r in reach)]  # all but what surrounds it
    return result
