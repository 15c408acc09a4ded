"""Each lung, and its part above the dome of the diaphragm: what people draw as lung on a frontal X-ray.

The outline that people draw goes along the dome: the abdomen covers the lung in the recess behind and below it.
"""

import numpy as np
from jaxtyping import Bool
from scipy import ndimage

OUTER = (-1, 1)  # direction of the outer side of the right and of the left lung along the last axis
FRONT = 0.5  # share of the lung's depth: further forward the lung ends at the heart, not at the diaphragm
TALL = 0.6  # of the tallest column of a sagittal plane: shorter columns lie at the rim and end above the diaphragm
HEIGHT = 0.95  # quantile of the lower ends of the columns in one sagittal plane


def split_lungs(mask: Bool[np.ndarray, "d h w"]) -> tuple[np.ndarray, np.ndarray] | None:
    """Masks of the right and the left lung; lungs that touch are separated by erosion. None for fewer than two."""
    for rounds in range(10):
        core = ndimage.binary_erosion(mask, iterations=rounds) if rounds else mask
        labels, count = ndimage.label(core)
        sizes = np.bincount(labels.ravel(), minlength=count + 1)
        sizes[0] = 0
        order = np.argsort(sizes)[::-1]
        if count >= 2 and sizes[order[1]] > 0.15 * sizes[order[0]]:
            kept = np.where(np.isin(labels, order[:2]), labels, 0)
            nearest = ndimage.distance_transform_edt(kept == 0, return_distances=False, return_indices=True)
            owner = kept[tuple(nearest)]
            halves = [mask & (owner == label) for label in order[:2]]
            return tuple(sorted(halves, key=lambda half: np.argwhere(half)[:, 2].mean()))
    return None


def above_dome(lung: Bool[np.ndarray, "d h w"], outer: int) -> Bool[np.ndarray, "d h w"]:
    """The part of a lung above the dome of its diaphragm; `outer` is its direction in `OUTER`.

    Its height in a sagittal plane is that of the lower ends of the columns of lung in the posterior half, and nowhere
    above the highest one of the outer half, where no heart lies on the diaphragm.
    """
    height, ends = lung.sum(axis=0), lung.argmax(axis=0)
    deep = np.flatnonzero(height.any(axis=1))
    height[: round(deep[0] + FRONT * (deep[-1] - deep[0]))] = 0
    tall = height > TALL * height.max(axis=0)
    planes = np.flatnonzero(tall.any(axis=0))
    dome = np.zeros(lung.shape[2])
    dome[planes] = [np.quantile(ends[tall[:, x], x], HEIGHT) for x in planes]
    outer_half = planes[outer * (planes - planes.mean()) >= 0]
    dome = ndimage.gaussian_filter1d(np.minimum(dome, dome[outer_half].max()), 1.0)
    return lung & (np.arange(len(lung))[:, None, None] >= dome)
