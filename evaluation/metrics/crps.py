"""Continuous ranked probability score of samples, voxel by voxel, in HU."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from evaluation.metrics.base import CaseView, Metric, NotMeasured
from evaluation.metrics.regions import REGIONS

SAMPLES = "samples"  # key of a case: its samples `(s, d, h, w)` in HU by method
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
    opposite = count // 2 if antithetic else 0
    pairs = count * (count - 1) // 2 - opposite
    if pairs == 0:
        raise ValueError("two antithetic samples hold no independent pair; give 3 or more")
    # the k-th smallest of s values is the larger one in k - 1 pairs and the smaller one in s - k
    ranks = torch.arange(count, dtype=samples.dtype, device=samples.device) * 2.0 - (count - 1)
    distance = torch.tensordot(ranks, samples.sort(dim=0).values, dims=1)
    for k in range(opposite):
        distance = distance - (samples[2 * k] - samples[2 * k + 1]).abs()
    return error - distance / (2.0 * pairs)


def _crps(view: CaseView, mask: Bool[Tensor, "d h w"] | None) -> Float[Tensor, " m"]:
    """The mean over voxels for each method; a method without samples is a point forecast."""
    samples, antithetic = view.case.get(SAMPLES, {}), bool(view.tools.get(ANTITHETIC))
    truth, values = view.truth if mask is None else view.truth[mask], []
    for name, prediction in zip(view.names or range(len(view.predictions)), view.predictions, strict=True):
        drawn = samples[name].to(truth) if name in samples else prediction[None]
        if antithetic and len(drawn) == 2:
            raise NotMeasured("two antithetic samples hold no independent pair: draw 3 or more")
        drawn = drawn.clamp(view.window.low, view.window.high)
        values.append(crps(drawn if mask is None else drawn[:, mask], truth, antithetic).mean())
    return torch.stack(values)


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
)
