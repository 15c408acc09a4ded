"""How close a volume is to its nearest training patient, in relation to its second nearest.

Volumes are averaged to at most `VOXELS` per side, and their distance is the angle between them around the training
mean. The angle does not change if a volume lies nearer to the mean or farther from it, as blurred and as regressed
volumes do; the ratio of the two smallest angles is near 1 for a volume that resembles several patients, and near 0 for
one that repeats a single one. A ratio of distances as in nearest-neighbour tests of synthetic data (Platzer and
Reutterer, "Holdout-based empirical assessment of mixed-type synthetic data", 2021).
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from common.errors import UserError

VOXELS = 16  # voxels per side of the compared volumes
LEAST = 1e-3  # smallest ratio: of an exact copy


class Nearest(NamedTuple):
    """The nearest training case of a volume: its position, the root mean square difference in HU, and the ratio."""

    case: int
    difference: float
    ratio: float


class TrainingCases:
    """The training volumes, coarse.

    Args:
        volumes: HU within the window.
        patients: one per volume; volumes of one patient count as one. UserError for fewer than two patients.
    """

    def __init__(self, volumes: Iterable[Float[Tensor, "d h w"]], patients: Sequence[str]):
        names, owner = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
        if len(names) < 2:
            raise UserError(f"training cases of {len(names)} patient; the comparison needs at least 2")
        self._rows = torch.stack([coarse(volume) for volume in volumes])
        self._mean = self._rows.mean(dim=0)
        self._directions = _directions(self._rows - self._mean)
        self._owner, self._patients = torch.from_numpy(owner), len(names)

    def nearest(self, volume: Float[Tensor, "d h w"]) -> Nearest:
        """The nearest training case by angle; its ratio is at least `LEAST`."""
        row = coarse(volume)
        angles = torch.acos((self._directions @ _directions((row - self._mean)[None])[0]).clamp(-1.0, 1.0))
        smallest = torch.full((self._patients,), torch.inf, dtype=angles.dtype)
        first, second = smallest.scatter_reduce(0, self._owner, angles, "amin").sort().values[:2].tolist()
        case = int(angles.argmin())
        difference = float((self._rows[case] - row).square().mean().sqrt())
        return Nearest(case, difference, max(first / second, LEAST))


def coarse(volume: Float[Tensor, "d h w"]) -> Float[Tensor, " p"]:
    """A volume averaged to at most `VOXELS` per side, as a row in double precision."""
    size = [min(n, VOXELS) for n in volume.shape]
    return F.adaptive_avg_pool3d(volume.float()[None], size).flatten().double()


def _directions(rows: Float[Tensor, "n p"]) -> Float[Tensor, "n p"]:
    return rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
