"""Proper scores of samples, in HU: CRPS voxel by voxel, and energy score of the whole volume."""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from evaluation.metrics.base import CaseView, Metric, NotMeasured
from evaluation.metrics.regions import REGIONS

SAMPLES = "samples"  # key of a case: its samples `(s, d, h, w)` in HU by method
LATENT_SAMPLES = "latent_samples"  # the same without the decoder's residual
ANTITHETIC = "antithetic"  # key of the tools: whether samples 2k and 2k + 1 have opposite noise


def crps(
    samples: Float[Tensor, "s ..."], truth: Float[Tensor, "..."], antithetic: bool = False
) -> Float[Tensor, "..."]:
    """`mean |x_i - y| - mean |x_i - x_j| / 2` over the pairs of independent samples, in the unit of the values.

    With independent samples this is the fair estimator `mean |x_i - y| - sum_{i<j} |x_i - x_j| / (s (s - 1))` (Ferro,
    "Fair scores for ensemble forecasts", 2014), whose expected value does not depend on their number. With
    `antithetic` the pairs (0, 1), (2, 3), … are left out, because they differ more than independent samples do. One
    sample is a point forecast, whose score is the absolute error. Raises ValueError for two antithetic samples.
    """
    count = len(samples)
    error = (samples - truth).abs().mean(dim=0)
    if count == 1:
        return error
    opposite, pairs = count // 2 if antithetic else 0, len(independent_pairs(count, antithetic))
    # the k-th smallest of s values is the larger one in k - 1 pairs and the smaller one in s - k
    ranks = torch.arange(count, dtype=samples.dtype, device=samples.device) * 2.0 - (count - 1)
    distance = torch.tensordot(ranks, samples.sort(dim=0).values, dims=1)
    for k in range(opposite):
        distance = distance - (samples[2 * k] - samples[2 * k + 1]).abs()
    return error - distance / (2.0 * pairs)


def independent_pairs(count: int, antithetic: bool) -> list[tuple[int, int]]:
    """Pairs i < j of independent samples; ValueError if there is none."""
    pairs = [(i, j) for j in range(count) for i in range(j) if not (antithetic and j % 2 == 1 and i == j - 1)]
    if not pairs:
        raise ValueError("two antithetic samples hold no independent pair; give 3 or more")
    return pairs


def samples_of(
    view: CaseView, mask: Bool[Tensor, "d h w"] | None, opposite: bool = False, key: str = SAMPLES
) -> Iterator[tuple[Float[Tensor, "s n"], bool]]:
    """Samples of each method, clipped to the window, inside `mask`, and whether they are antithetic.

    `key` is `SAMPLES` or `LATENT_SAMPLES`. A method without samples is a point forecast: its prediction alone.
    NotMeasured for two antithetic samples, which hold no independent pair, unless `opposite` allows them.
    """
    samples, antithetic = view.case.get(key, {}), bool(view.tools.get(ANTITHETIC))
    for name, prediction in zip(view.names or range(len(view.predictions)), view.predictions, strict=True):
        drawn = samples[name].to(view.truth) if name in samples else prediction[None]
        if antithetic and len(drawn) == 2 and not opposite:
            raise NotMeasured("two antithetic samples hold no independent pair: draw 3 or more")
        drawn = drawn.clamp(view.window.low, view.window.high)
        yield (drawn.flatten(1) if mask is None else drawn[:, mask]), antithetic


def _crps(view: CaseView, mask: Bool[Tensor, "d h w"] | None) -> Float[Tensor, " m"]:
    """The mean over voxels for each method; a method without samples is a point forecast."""
    truth = view.truth.flatten() if mask is None else view.truth[mask]
    return torch.stack([crps(drawn, truth, paired).mean() for drawn, paired in samples_of(view, mask)])


def energy_score(samples: Float[Tensor, "s n"], truth: Float[Tensor, " n"], antithetic: bool = False) -> float:
    """`mean |x_i - y| - mean |x_i - x_j| / 2` over independent pairs, with the norm `|x| = sqrt(mean of x²)`.

    Unlike a score voxel by voxel it depends on the dependence between voxels (Gneiting and Raftery, "Strictly proper
    scoring rules, prediction, and estimation", 2007, eq. 22). The norm is that of the paper over `sqrt(n)`, so that
    the score is in the unit of the values and a point forecast scores its root mean square error. As for `crps`,
    pairs of opposite noise are left out and the expected value does not depend on the number of samples. Raises
    ValueError for two antithetic samples.
    """
    scale = truth.numel() ** 0.5
    error = float(torch.linalg.vector_norm(samples - truth, dim=1).mean()) / scale
    if len(samples) == 1:
        return error
    pairs = independent_pairs(len(samples), antithetic)
    between = [float(torch.linalg.vector_norm(samples[i] - samples[j])) for i, j in pairs]
    return error - sum(between) / (2.0 * len(pairs)) / scale


def _energy(view: CaseView) -> Float[Tensor, " m"]:
    truth = view.truth.flatten() if view.scanned is None else view.truth[view.scanned]
    drawn = samples_of(view, view.scanned)
    return torch.tensor([energy_score(one, truth, paired) for one, paired in drawn])


DEFINITION = "mean over voxels of the fair estimate from the samples (Ferro 2014); the absolute error of a point"
METRICS = (  # they need the samples of a method, not their mean
    Metric(
        "crps",
        "CRPS, HU",
        lambda view: _crps(view, view.scanned),
        f"{DEFINITION}, whole volume",
        "HU",
        best="low",
        digits=1,
        default=True,
    ),
    Metric(
        "crps_body",
        "CRPS in the body, HU",
        lambda view: _crps(view, view.region("body")),
        f"{DEFINITION}, inside {REGIONS['body'].definition}",
        "HU",
        best="low",
        digits=1,
    ),
    Metric(
        "energy_score",
        "energy score, HU",
        _energy,
        "fair estimate of E|X - y| - E|X - X'| / 2 from the samples, norms over the whole volume as root mean squares "
        "(Gneiting and Raftery 2007); the root mean square error of a point",
        "HU",
        best="low",
        digits=1,
        default=True,
    ),
)
