"""Reliability of evidence maps: where a share e of the variance is said to be determined, the error is the rest."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from ddpm.diffusion.sample_spread import variance_of_mean
from evaluation.statistics.evidence_curve import BINS
from evaluation.statistics.patient_bootstrap import DRAWS, bootstrap_ratio


def reliability_sums(
    evidence: Float[Tensor, "d h w"],
    population: Float[Tensor, "d h w"],
    samples: Float[Tensor, "s d h w"],
    truth: Float[Tensor, "d h w"],
    antithetic: bool,
    mask: Bool[Tensor, "d h w"] | None = None,
    bins: int = BINS,
) -> Float[np.ndarray, "4 b"]:
    """Sums over the voxels of each bin: their number, error, variance of the population, its undetermined part.

    The error is the squared difference of truth and mean of the samples, minus the variance of that mean
    (`variance_of_mean`): an unbiased estimate of the squared error of the mean of infinitely many samples. Voxels
    whose evidence is NaN are left out.

    Args:
        evidence: 0 to 1, with `population` in HU² (`ddpm.diffusion.training_spread`).
        samples: decoded, in HU, without the decoder's residual, whose mean is 0.
        truth: HU, clipped as the samples are.
        antithetic: as in `ddpm.diffusion.sample_spread`.
        mask: voxels that count; None for all.
        bins: of evidence, equally wide.
    """
    known = ~(evidence.isnan() | population.isnan())
    known = known if mask is None else known & mask
    error = (truth - samples.mean(dim=0)).square() - variance_of_mean(samples, antithetic)
    share, variance = evidence[known].double(), population[known].double()
    place = (share * bins).long().clamp(0, bins - 1)
    columns = torch.ones_like(share), error[known].double(), variance, variance * (1.0 - share)
    return np.stack([torch.bincount(place, weights=column, minlength=bins).cpu().numpy() for column in columns])


def evidence_reliability(
    sums: Float[np.ndarray, "n 4 b"], patients: Shaped[np.ndarray, " n"], draws: int = DRAWS, seed: int = 0
) -> dict:
    """The curve of all cases as JSON: `bins` with `from`, `to`, `voxels` (their share), `expected` and `error`.

    `expected` is the mean of `1 - evidence`, `error` the mean squared error (`reliability_sums`) with an interval over
    patients, both as shares of the variance of the population and weighted by it; `error` is None in an empty bin.
    They are equal for samples of the true posterior. `gap` is the mean absolute difference, weighted by voxels.
    """
    voxels, bins, gap = sums[:, 0].sum(), [], 0.0
    for place in range(BINS):
        count, _, variance, rest = sums[:, :, place].sum(axis=0)
        row = {"from": place / BINS, "to": (place + 1) / BINS, "voxels": round(float(count / max(voxels, 1.0)), 6)}
        if variance > 0.0:
            error = bootstrap_ratio(sums[:, 1, place], sums[:, 2, place], patients, draws, seed)
            row |= {"expected": round(float(rest / variance), 6), "error": error.as_dict()}
            gap += count / voxels * abs(error.mean - rest / variance)
        bins.append({"expected": None, "error": None} | row)
    return {"bins": bins, "gap": round(float(gap), 6), "cases": len(sums)}
