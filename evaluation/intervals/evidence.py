"""The evidence map: how much an X-ray narrowed each place of a volume, against the training population.

By the law of total variance, the variance of a population is the mean posterior variance plus the variance of the
posterior means. So `1 - posterior variance / population variance` is the share of the variance that the X-ray
explains: 0 where the samples vary as patients do (invented), 1 where all samples agree (determined). If the samples
are those of the true posterior, the squared error of their expectation is the other share, `1 - evidence`, of the
population's.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dataset.imaging.hu_window import Window
from ddpm.diffusion.sample_spread import sample_variance

FEWEST_SAMPLES = 4  # of an X-ray, for a map
MAX_SIDE = 16  # cells per side, over which variances are averaged
FITTED_ON, FEWEST = 200, 40  # largest and smallest number of training volumes
CONSTANT_HU = 10.0  # standard deviation of a cell below which patients do not differ: nothing is left to determine


@dataclass(frozen=True)
class TrainingSpread:
    """The standard deviation of training volumes around their mean, by cell, in the frame of the generated volumes.

    Attributes:
        size: cells `[d, h, w]`, at most `MAX_SIDE` each.
        sd: HU of every cell, the root of the mean variance of its voxels, in the order of a flattened array.
        cases: volumes that it was measured on.
    """

    size: list[int]
    sd: list[float]
    cases: int

    def __post_init__(self):
        if len(self.size) != 3 or math.prod(self.size) != len(self.sd) or not all(v >= 0.0 for v in self.sd):
            raise ValueError("the spread of training volumes is damaged")

    @classmethod
    def fit(cls, train, window: Window) -> "TrainingSpread | None":
        """That of at most `FITTED_ON` evenly spread cases of a `CaseDataset`, clipped to the window as generated
        volumes are; None with fewer than `FEWEST`.
        """
        count = min(FITTED_ON, len(train))
        if count < FEWEST:
            return None
        total, squares = 0.0, 0.0
        for index in np.linspace(0, len(train) - 1, count).round().astype(int).tolist():
            hu = train.case(index)["ct"].double().clamp(window.low, window.high)
            total, squares = total + hu, squares + hu.square()
        variance = ((squares - total.square() / count) / (count - 1)).clamp_min(0.0).float()
        size = [min(n, MAX_SIDE) for n in variance.shape]
        cells = F.adaptive_avg_pool3d(variance[None], size)[0]
        return cls(size, [round(value, 1) for value in cells.sqrt().flatten().tolist()], count)

    def evidence(self, samples: Float[Tensor, "s d h w"], antithetic: bool) -> Float[Tensor, "d h w"]:
        """The map in [0, 1] of samples in HU of one X-ray, averaged over cells and interpolated between them.

        0 where training volumes differ by less than `CONSTANT_HU`, as in the air around a patient. `antithetic` is
        that of `ddpm.diffusion.sample_spread`. Raises ValueError for fewer than `FEWEST_SAMPLES`.
        """
        if len(samples) < FEWEST_SAMPLES:
            raise ValueError(f"{len(samples)} samples: an evidence map needs at least {FEWEST_SAMPLES}")
        posterior = F.adaptive_avg_pool3d(sample_variance(samples.float(), antithetic)[None], self.size)[0]
        population = torch.tensor(self.sd).to(posterior).reshape(self.size).square()
        share = (1.0 - posterior / population.clamp_min(CONSTANT_HU**2)).clamp(0.0, 1.0)
        share = torch.where(population < CONSTANT_HU**2, torch.zeros_like(share), share)
        return F.interpolate(share[None, None], samples.shape[1:], mode="trilinear", align_corners=False)[0, 0]
