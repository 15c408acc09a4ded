"""Bounding boxes of the lungs in a frontal X-ray, from intensity profiles, and in a CT volume.

Each row of a chest X-ray is bright at the spine, dark in the lungs and bright at the chest walls. The depth of the two
valleys per row gives the top and bottom of the lungs, their outer slopes the width.
"""

import numpy as np
import torch
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from dataset.imaging.lung_segmentation import segment_lungs
from dataset.imaging.resampling import downsample
from dataset.imaging.volume import Volume

WORKING = 128  # rows and columns of the working resolution
MARGIN = 0.035  # of the exposed field, removed on each side
SMOOTH = 1.5  # pixels, standard deviation of the Gaussian that suppresses ribs
MIDDLE = (0.3, 0.7)  # range of the width that contains the spine
FLOOR_REACH = 0.33  # of the width: largest distance of the valley floor from the spine
WALL_SHARE = 0.3  # of the spine height over the floor: smallest rise of the chest wall, above that of a rib
FAINTEST = 0.03  # of the grey scale: smallest valley depth above noise
SHALLOW = 0.2  # of the depth of the deepest rows: smallest depth of lung rows
SHALLOW_TOP = 0.45  # the same at the top; at the bottom, abdomen and breasts reduce the depth
EDGE_SHARE = 0.12  # of the rows may extend beyond the box
SMALLEST = 0.2  # of the field: smallest side of a valid box
VOLUME_MM = 6.0  # grid spacing of the segmentation of a volume
VISIBLE_MM = 60.0  # of lung along the beam: smallest visible thickness
TRIM = 0.002  # of the lung voxels outside each side of a volume's box


def lung_box_in_image(image: Float[Tensor, "h w"]) -> Float[Tensor, "4"] | None:
    """Box of both lungs in a frontal X-ray `[0, 1]`, bright bone: `(top, bottom, left, right)`, shares of the sides.

    Its lower edge is at the domes of the diaphragm, not at the recess behind them. None if no lungs are found.
    """
    small = F.interpolate(image[None, None].float(), size=(WORKING, WORKING), mode="bilinear", antialias=True)[0, 0]
    rows, columns = _field(small.numpy())
    picture = ndimage.gaussian_filter(small.numpy()[rows, columns], SMOOTH)
    height, width = picture.shape
    if min(height, width) < WORKING // 4:
        return None
    middle = _spine(picture)
    right, left = (_side(*_valleys(picture, middle, side), side) for side in (-1, 1))
    if right is None and left is None:
        return None
    (top, bottom, edge), (other_top, other_bottom, other_edge) = right or left, left or right
    # the left lung may end at a stomach bubble; it counts if the right one is much shorter
    bottom = other_bottom if bottom - top < 0.7 * (other_bottom - other_top) else bottom
    outer = (edge if right else middle, other_edge if left else middle)
    box = [
        rows.start + min(top, other_top),
        rows.start + bottom,
        columns.start + outer[0],
        columns.start + outer[1] + 1,
    ]
    box = np.array(box) / WORKING
    if box[1] - box[0] < SMALLEST * height / WORKING or box[3] - box[2] < SMALLEST * width / WORKING:
        return None
    return torch.tensor(box, dtype=torch.float32)


def lung_box_in_volume(hu: Float[np.ndarray, "d h w"], spacing: tuple[float, float, float]) -> Float[Tensor, "6"]:
    """Box of both lungs: `(d0, d1, h0, h1, w0, w1)`, shares of the sides of the volume; NaN if no lungs are found.

    It covers what a frontal X-ray shows: at least `VISIBLE_MM` of lung along the beam, not the recess behind the dome.
    """
    coarse = downsample(Volume(np.asarray(hu, dtype=np.float32), tuple(float(s) for s in spacing)), VOLUME_MM)
    mask = segment_lungs(coarse.hu, coarse.spacing)
    if not mask.any():
        return torch.full((6,), float("nan"))
    depth = mask.sum(axis=1) * coarse.spacing[1]
    mask &= (depth >= min(VISIBLE_MM, 0.5 * depth.max()))[:, None, :]
    box = []
    for axis, count in enumerate(mask.shape):
        share = np.cumsum(mask.sum(axis=tuple(a for a in range(3) if a != axis)) / mask.sum())
        box += [np.searchsorted(share, TRIM) / count, (np.searchsorted(share, 1.0 - TRIM) + 1) / count]
    return torch.tensor(box, dtype=torch.float32)


def _field(picture: np.ndarray) -> tuple[slice, slice]:
    """The exposed field without a margin for bright collimator edges."""
    found = []
    for axis in (1, 0):
        lit = np.flatnonzero(np.quantile(picture, 0.9, axis=axis) > 0.02)
        start, stop = (int(lit[0]), int(lit[-1]) + 1) if len(lit) else (0, 0)
        margin = round(MARGIN * (stop - start))
        found.append(slice(start + margin, stop - margin))
    return tuple(found)


def _spine(picture: np.ndarray) -> int:
    height, width = picture.shape
    low, high = (int(share * width) for share in MIDDLE)
    profile = picture[int(0.15 * height) : int(0.75 * height)].mean(axis=0)
    return low + int(ndimage.gaussian_filter1d(profile, width * 0.04)[low:high].argmax())


def _valleys(picture: np.ndarray, middle: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Depth of the lung valley in each row on one side, and the column of its outer slope."""
    height, width = picture.shape
    depth, outer = np.zeros(height), np.full(height, float(middle))
    for y in range(height):
        ray = picture[y, middle:] if side > 0 else picture[y, middle::-1]
        if len(ray) < 8:
            continue
        near, floor, far = _deepest(ray, int(FLOOR_REACH * width))
        depth[y] = max(0.0, min(ray[near], ray[far]) - ray[floor])
        half = (ray[floor] + min(ray[near], ray[far])) / 2.0
        outer[y] = middle + side * (floor + np.flatnonzero(ray[floor : far + 1] >= half)[0])
    return depth, outer


def _deepest(ray: np.ndarray, reach: int) -> tuple[int, int, int]:
    """Inner shoulder, floor (within `reach`, before the air beside the patient) and outer shoulder of the valley."""
    inner = np.maximum.accumulate(ray)
    outward = np.maximum.accumulate(ray[::-1])[::-1]
    floor = int((np.minimum(inner, outward) - ray)[:reach].argmax())
    near = int(ray[: floor + 1].argmax())
    rise = np.maximum.accumulate(ray[floor:]) - ray[floor]
    # the chest wall is the first peak after which the profile falls by half, not the highest one
    fallen = (rise > WALL_SHARE * (ray[near] - ray[floor])) & (ray[floor:] - ray[floor] < 0.5 * rise)
    end = floor + int(fallen.argmax()) if fallen.any() else len(ray)
    return near, floor, floor + int(ray[floor : max(end, floor + 1)].argmax())


def _side(depth: np.ndarray, outer: np.ndarray, side: int) -> tuple[float, float, float] | None:
    """First row, row after the last, and outermost column of one lung: the run of rows around the deepest."""
    depth = ndimage.gaussian_filter1d(depth, 1.5)
    reference = np.quantile(depth, 0.85)
    if reference < FAINTEST:
        return None
    labels, _ = ndimage.label(depth > SHALLOW * reference)
    sizes = np.bincount(labels, weights=depth)
    lit = np.flatnonzero(labels == 1 + sizes[1:].argmax())
    top = lit[np.flatnonzero(depth[lit] > SHALLOW_TOP * reference)[0]]
    deep = np.arange(top, lit[-1] + 1)[(lit[-1] + 1 - top) // 6 :]
    edge = side * np.quantile(side * outer[deep], 1.0 - EDGE_SHARE)
    return float(top), float(lit[-1] + 1), float(edge)
