"""How much training volumes differ, place by place, and the evidence map: what an X-ray determined of it.

By the law of total variance, the variance of a population is the mean posterior variance plus the variance of the
posterior means. So `1 - posterior variance / population variance` is the share of the variance that the X-ray
explains: 0 where the samples vary as patients do (invented), 1 where all samples agree (determined). If the samples
are those of the true posterior, the squared error of their expectation is the other share, `1 - evidence`, of the
population's.

The variance of a few samples is noisy, and where nothing is determined half of the noise would look like evidence.
So each cell is moved towards the mean of the volume as far as noise explains the differences between cells: the best
linear predictor of Bühlmann, "Experience rating and credibility", ASTIN Bulletin 4(3), 1967.
"""

import math
from collections.abc import Iterable, Sequence

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from dataset.imaging.hu_window import Window
from ddpm.diffusion.sample_spread import sample_variance, squared_deviations, variance_of_estimate

ESTIMATE = "credible"  # how maps are estimated, for calibrations; other estimates need other curves
FEWEST_SAMPLES = 4  # of an X-ray, for a map
MAX_SIDE = 16  # cells per side, over which variances are averaged
CONSTANT_HU = 10.0  # standard deviation of a cell below which patients do not differ: nothing is left to determine
UNIT_HU = 0.1  # of the stored standard deviations, integers of 16 bits
KNOWN_IN = 0.5  # share of the volumes that must know a voxel

Volumes = Iterable[tuple[Float[Tensor, "D H W"], Bool[Tensor, "D H W"] | None]]


class TrainingSpread(ModelMixin, ConfigMixin):
    """The standard deviation of training volumes around their mean, by cell, in the frame of the generated volumes.

    Args:
        size: cells `[d, h, w]`.
        cases: number of measured volumes by their kind, such as `{"patients": 6, "morphs": 54}`.
    """

    @register_to_config
    def __init__(self, size: Sequence[int] = (1, 1, 1), cases: dict[str, int] | None = None):
        super().__init__()
        self.register_buffer("deviation", torch.zeros(*size, dtype=torch.int16))  # in units of `UNIT_HU`

    @classmethod
    def fit(cls, volumes: Volumes, window: Window, cases: dict[str, int]) -> "TrainingSpread":
        """From volumes in HU with their scanned voxels (None for all), clipped to the window as generated ones are.

        A voxel that is not known in `KNOWN_IN` of the volumes counts as constant. ValueError for fewer than two.
        """
        total, squares, known, count = 0.0, 0.0, 0.0, 0
        for hu, scanned in volumes:
            mask = torch.ones_like(hu, dtype=torch.bool) if scanned is None else scanned
            hu = torch.where(mask, hu.double().clamp(window.low, window.high), 0.0)
            total, squares, known, count = total + hu, squares + hu.square(), known + mask.double(), count + 1
        if count < 2:
            raise ValueError(f"{count} training volumes: a variance needs at least 2")
        variance = (squares - total.square() / known.clamp_min(1.0)) / (known - 1.0).clamp_min(1.0)
        variance = torch.where(known < max(2.0, KNOWN_IN * count), 0.0, variance.clamp_min(0.0)).float()
        size = [min(n, MAX_SIDE) for n in variance.shape]
        return cls._of(F.adaptive_avg_pool3d(variance[None], size)[0].sqrt(), cases)

    @classmethod
    def from_numbers(cls, size: Sequence[int], sd: Sequence[float], cases: int) -> "TrainingSpread":
        """From the entry of a calibration file: HU of every cell in the order of a flattened array.

        ValueError for a damaged one.
        """
        if len(size) != 3 or math.prod(size) != len(sd) or not all(v >= 0.0 for v in sd):
            raise ValueError("the spread of training volumes is damaged")
        return cls._of(torch.tensor(sd, dtype=torch.float32).reshape(*size), {"cases": int(cases)})

    @classmethod
    def _of(cls, sd: Float[Tensor, "d h w"], cases: dict[str, int]) -> "TrainingSpread":
        made = cls(list(sd.shape), dict(cases))
        made.deviation.copy_((sd / UNIT_HU).round().clamp(0, torch.iinfo(torch.int16).max))
        return made.eval()

    @property
    def sd(self) -> Float[Tensor, "d h w"]:
        """HU of every cell: the root of the mean variance of its voxels."""
        return self.deviation.float() * UNIT_HU

    @property
    def cases(self) -> dict[str, int]:
        """Number of measured volumes by their kind."""
        return dict(self.config.cases or {})

    def variance(self, shape: Sequence[int]) -> Float[Tensor, "D H W"]:
        """HU² of every voxel of a volume of this shape, between cells interpolated; NaN where patients agree."""
        found = _between_cells(self.sd.square(), shape)
        return torch.where(found < CONSTANT_HU**2, torch.nan, found)

    def evidence(self, samples: Float[Tensor, "s D H W"], antithetic: bool) -> Float[Tensor, "D H W"]:
        """The map in [0, 1] of samples in HU of one X-ray, averaged over cells and interpolated between them.

        NaN where training volumes differ by less than `CONSTANT_HU`, as in the air around a patient. `antithetic` is
        that of `ddpm.diffusion.sample_spread`. Raises ValueError for fewer than `FEWEST_SAMPLES`.
        """
        if len(samples) < FEWEST_SAMPLES:
            raise ValueError(f"{len(samples)} samples: an evidence map needs at least {FEWEST_SAMPLES}")
        population = self.sd.to(samples.device).square()
        variances = torch.cat([sample_variance(samples.float(), antithetic)[None],
                               squared_deviations(samples.float(), antithetic)])  # fmt: skip
        posterior, *parts = F.adaptive_avg_pool3d(variances, population.shape)
        varied = population >= CONSTANT_HU**2
        rest = torch.zeros_like(population)
        rest[varied] = credible(posterior[varied], torch.stack(parts)[:, varied], population[varied], antithetic)
        # of a voxel between cells only those that vary count
        summed, weight = (_between_cells(part, samples.shape[1:]) for part in (rest.clamp(0.0, 1.0), varied.float()))
        unknown = self.variance(samples.shape[1:]).isnan().to(rest.device)
        return (1.0 - summed / weight).masked_fill(unknown, torch.nan)


def credible(
    posterior: Float[Tensor, " n"], parts: Float[Tensor, "k n"], population: Float[Tensor, " n"], antithetic: bool
) -> Float[Tensor, " n"]:
    """`posterior / population` of every cell, moved towards that of all cells by the noise of the estimates.

    Args:
        posterior: variance of the samples, the mean of `parts` but for a common factor.
        parts: the estimates of it (`ddpm.diffusion.sample_spread.squared_deviations`).
    """
    if not len(posterior):
        return posterior
    ratio, mean = posterior / population, posterior.sum() / population.sum()
    scale = posterior.sum() / parts.mean(dim=0).sum().clamp_min(torch.finfo(parts.dtype).tiny)
    noise = variance_of_estimate(scale * parts / population, antithetic).mean()
    total = ratio.var(correction=0).clamp_min(torch.finfo(ratio.dtype).tiny)
    return mean + (1.0 - noise / total).clamp_min(0.0) * (ratio - mean)


def _between_cells(values: Float[Tensor, "d h w"], shape: Sequence[int]) -> Float[Tensor, "D H W"]:
    return F.interpolate(values[None, None], tuple(shape), mode="trilinear", align_corners=False)[0, 0]
