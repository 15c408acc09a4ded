"""Spread of the samples in the body, its ratio to the error of their mean, and the share of voxels that it covers."""

import torch
from jaxtyping import Float
from scipy.special import stdtrit
from torch import Tensor

from ddpm.diffusion.sample_spread import independent, root_mean_square, sample_spread, variance_of_mean
from evaluation.metrics.base import CaseView, Metric, NotMeasured
from evaluation.metrics.crps import LATENT_SAMPLES, SAMPLES, samples_of
from evaluation.metrics.regions import REGIONS


def spread_and_error(
    samples: Float[Tensor, "s n"], truth: Float[Tensor, " n"], antithetic: bool = False
) -> tuple[float, float]:
    """Root mean square over positions of the spread, and of the error of the mean of infinitely many samples.

    The squared error of the mean of s samples is larger by the variance of that mean, which the samples give and which
    is taken off (Fortin et al., "Why should ensemble spread match the RMSE of the ensemble mean?", 2014, eq. 11). If
    the truth is distributed as the samples both are equal in the mean over cases. The error is NaN if nothing is left.
    Raises ValueError for fewer than two samples.
    """
    spread = root_mean_square(sample_spread(samples, antithetic))
    square = (samples.mean(dim=0) - truth).double().square().mean() - variance_of_mean(samples, antithetic).mean()
    return spread, float(square.sqrt())


def covered_share(
    samples: Float[Tensor, "s n"], truth: Float[Tensor, " n"], antithetic: bool = False, level: float = 0.9
) -> float:
    """Share of the positions at which the truth lies in the normal prediction interval of the samples.

    Of a pair of opposite noise one sample counts, since the mean of a pair has less than half of their variance by an
    amount that depends on the correlation of its errors. Of s such independent samples the interval is mean ±
    t √(variance (1 + 1/s)) with the quantile t of Student's distribution with s - 1 degrees of freedom, so that few
    samples cover the level as well; with many it is ±1.645 standard deviations for 0.9. Raises ValueError for fewer
    than two independent samples.
    """
    drawn = independent(samples, antithetic)
    count = len(drawn)
    if count < 2:
        raise ValueError("an interval needs two independent samples")
    half = float(stdtrit(count - 1, 0.5 + level / 2.0)) * (drawn.var(dim=0) * (1.0 + 1.0 / count)).sqrt()
    return float(((truth - drawn.mean(dim=0)).abs() <= half).double().mean())


def _measured(view: CaseView, key: str = SAMPLES) -> list[tuple[float, float]]:
    body = view.region("body")
    found = []
    for drawn, paired in samples_of(view, body, opposite=True, key=key):
        many = len(drawn) > 1
        found.append(spread_and_error(drawn, view.truth[body], paired) if many else (float("nan"), float("nan")))
    if all(spread != spread for spread, _ in found):
        raise NotMeasured("one sample shows no spread")
    return found


def _spread(view: CaseView, key: str = SAMPLES) -> Float[Tensor, " m"]:
    return torch.tensor([spread for spread, _ in _measured(view, key)])


def _ratio(view: CaseView) -> Float[Tensor, " m"]:
    return torch.tensor([spread / error if error else float("nan") for spread, error in _measured(view)])


def _covered(view: CaseView) -> Float[Tensor, " m"]:
    body = view.region("body")
    shares = [
        covered_share(drawn, view.truth[body], paired) if len(independent(drawn, paired)) > 1 else float("nan")
        for drawn, paired in samples_of(view, body, opposite=True)
    ]
    if all(share != share for share in shares):
        raise NotMeasured("an interval needs two independent samples")
    return torch.tensor(shares)


METRICS = (
    Metric(
        "spread_hu_body",
        "spread, HU",
        _spread,
        "standard deviation of a sample, with the decoder's residual if the sampler includes it, inside "
        f" {REGIONS['body'].definition}; root mean square over voxels, cases",
        "HU",
        best="none",
        digits=1,
        default=True,
        pooled="root mean square",
    ),
    Metric(
        "spread_latent_hu_body",
        "spread of the latents alone, HU",
        lambda view: _spread(view, LATENT_SAMPLES),
        f"standard deviation of a decoded sample without the decoder's residual inside {REGIONS['body'].definition}; "
        "root mean square over voxels, cases",
        "HU",
        best="none",
        digits=1,
        default=True,
        pooled="root mean square",
    ),
    Metric(
        "spread_over_error",
        "spread over error",
        _ratio,
        f"inside {REGIONS['body'].definition}: root mean square spread over the root mean square error of the mean of "
        "infinitely many samples (Fortin et al. 2014), pooled over cases; 1 if the truth is like a further sample",
        best="one",
        digits=2,
        default=True,
        pooled="ratio",
    ),
    Metric(
        "covered_90",
        "voxels in the 90 % interval",
        _covered,
        f"share of the voxels inside {REGIONS['body'].definition} whose true value lies in the normal prediction "
        "interval of the independent samples, one of each pair of opposite noise (Student's t); 0.9 if the truth is "
        "like a further, normally distributed sample",
        best="none",
        digits=3,
        default=True,
    ),
)
