"""Bounding box of the lungs in a CT volume, as a frontal X-ray shows them."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dataset.imaging.lung_segmentation import segment_lungs
from dataset.imaging.resampling import downsample
from dataset.imaging.volume import Volume

VOLUME_MM = 6.0  # grid spacing of the segmentation of a volume
VISIBLE_MM = 60.0  # of lung along the beam: smallest visible thickness
TRIM = 0.002  # of the lung voxels outside each side of a volume's box


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
