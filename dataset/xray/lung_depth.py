"""How deep the lung behind each pixel of an X-ray is, between two bounds, from what the lung network finds.

The bounds are quartiles of the depth in DRRs of deformed chests changed as films are (`train/lungs/drrs.py`), by the
sum of the probabilities of all levels. Where the network is certain of deep lung there is no upper bound. Below the
lungs the recess behind the diaphragm may be as deep as in the DRRs, since the network does not see it.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dataset.imaging.lung_network import SIZE, FoundLungs
from dataset.imaging.unknown_pixels import split_unknown
from dataset.xray.lung_alignment import LungMap

PIXELS = 64  # side of the bounds
LUNG = 1.0  # smallest sum of probabilities of a pixel whose lung ends the column of pixels below it
NONE_MM = 530.0  # no bound: more than any lung
SUMS = (0.0, 0.04, 0.09, 0.18, 0.36, 0.62, 0.87, 1.13, 1.38, 1.62, 1.88, 2.13, 2.38, 2.63, 2.83, 2.95, 3.0)
LOW_MM = (0, 0, 0, 0, 1, 7, 12, 22, 26, 33, 39, 45, 50, 59, 65, 80, 90)  # at each of the sums
HIGH_MM = (1, 2, 13, 20, 30, 36, 42, 58, 61, 70, 76, 80, 84, 120, 200, NONE_MM, NONE_MM)
RECESS_MM = (20, 29, 37, 46, 52, 58, 64, 70, 75, 80, 85, 90, 95, 120, 200, NONE_MM, NONE_MM)  # below the lungs


class LungDepth(NamedTuple):
    """Bounds of the lung along each ray in mm; NaN where the X-ray shows nothing."""

    low: Float[Tensor, "h w"]
    high: Float[Tensor, "h w"]


def lung_depth(found: FoundLungs, alignment: LungMap | None) -> LungDepth:
    """Bounds on `PIXELS` x `PIXELS` pixels of the X-ray after its alignment."""
    levels = torch.from_numpy(np.ascontiguousarray(found.probability.max(axis=0), dtype=np.float32))
    shown = torch.ones(SIZE, SIZE)
    if alignment is not None:
        shown = alignment.apply(shown)
        levels = torch.stack([split_unknown(alignment.apply(level))[0] for level in levels])
    sums = F.adaptive_avg_pool2d(levels, PIXELS).sum(dim=0).numpy()
    lung = sums > LUNG
    below = np.logical_or.accumulate(lung, axis=0) & ~np.logical_or.accumulate(lung[::-1], axis=0)[::-1]
    high = np.where(below, np.interp(sums, SUMS, RECESS_MM), np.interp(sums, SUMS, HIGH_MM))
    bounds = np.stack([np.interp(sums, SUMS, LOW_MM), high]).astype(np.float32)
    known = F.adaptive_avg_pool2d((~shown.isnan()).float()[None], PIXELS)[0] > 0.99
    return LungDepth(*torch.where(known, torch.from_numpy(bounds), float("nan")))
