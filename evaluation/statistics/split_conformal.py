"""Split-conformal intervals: order statistics of samples, widened until held-out cases are covered.

The guarantee assumes exchangeable cases only: an interval of level L holds the truth of a new case with
probability at least L, on average over the sets of calibration cases that could have been drawn (Vovk, Gammerman and
Shafer, "Algorithmic Learning in a Random World", 2005; Romano, Patterson and Candès, "Conformalized Quantile
Regression", 2019). It does not hold for cases from another population.
"""

import math

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import binomtest
from torch import Tensor

TOLERANCE = 1e-9  # a level such as 0.9 is no binary fraction: 0.1 * 20 must be 2


def samples_needed(level: float) -> int:
    """Samples that an interval of a level needs at least, `2 / (1 - level)`.

    Raises:
        ValueError: a level that is not between 0 and 1.
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level={level:g}: give a number between 0 and 1, such as 0.9")
    return math.ceil(2.0 / (1.0 - level) - TOLERANCE)


def cases_needed(level: float, tails: int = 2) -> int:
    """Calibration cases that a margin of a level needs at least; with two tails each may miss half as much."""
    return math.ceil(tails / (1.0 - level) - 1.0 - TOLERANCE)


def rank_of(samples: int, level: float) -> int:
    """k of the interval from the k-th smallest to the k-th largest of so many samples.

    If the truth is one more draw from where the samples come from, it lies inside with probability
    `(n + 1 - 2k) / (n + 1) >= level`, for `k = ⌊(n + 1) (1 - level) / 2⌋`.

    Raises:
        ValueError: fewer than `samples_needed(level)`.
    """
    if samples < samples_needed(level):
        raise ValueError(
            f"samples={samples}: an interval of level {level:g} needs at least {samples_needed(level)} samples; "
            "with fewer it is a spread"
        )
    return math.floor((samples + 1) * (1.0 - level) / 2.0 + TOLERANCE)


def order_interval(samples: Float[Tensor, " s *shape"], level: float) -> tuple[Float[Tensor, "*shape"], ...]:
    """Lower and upper end: the k-th smallest and k-th largest sample at each place.

    Raises:
        ValueError: too few samples for the level.
    """
    k = rank_of(len(samples), level)
    if k == 1:  # a sort of volumes takes seconds
        return samples.amin(dim=0), samples.amax(dim=0)
    ordered = samples.sort(dim=0).values
    return ordered[k - 1], ordered[len(samples) - k]


def conformal_margin(scores: Float[np.ndarray, " n"], level: float) -> float:
    """The `⌈(n + 1) level⌉`-th smallest score of n calibration cases.

    The score of one more exchangeable case is at most that with probability `level` or more, ties or none; without
    ties with less than `level + 1 / (n + 1)`.

    Raises:
        ValueError: too few cases for the level, or scores that are not finite.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 1 or not np.isfinite(scores).all():
        raise ValueError("calibration scores must be finite numbers in one row")
    rank = math.ceil((len(scores) + 1) * level - TOLERANCE)
    if rank > len(scores):
        needed = cases_needed(level, tails=1)
        raise ValueError(f"{len(scores)} calibration cases: the level {level:g} needs at least {needed}")
    return float(np.sort(scores)[rank - 1])


def share_score(excess: Float[Tensor, " m"], share: float) -> float:
    """The smallest margin at which `share` of the places lie inside: the `⌈m share⌉`-th smallest excess.

    Raises:
        ValueError: no place, or a share outside 0 to 1.
    """
    if not 0.0 < share <= 1.0 or not len(excess):
        raise ValueError(f"share={share:g} of {len(excess)} places: give a share above 0, at most 1, and places")
    rank = math.ceil(len(excess) * share - TOLERANCE)
    return float(torch.kthvalue(excess, rank).values)


def coverage(covered: np.ndarray) -> dict[str, float | int]:
    """Share of covered cases with its exact binomial interval of 95 % (Clopper and Pearson 1934)."""
    covered = np.asarray(covered, dtype=bool)
    hits, count = int(covered.sum()), len(covered)
    interval = binomtest(hits, count).proportion_ci(0.95, "exact")
    return {
        "mean": round(hits / count, 6),
        "low": round(float(interval.low), 6),
        "high": round(float(interval.high), 6),
        "covered": hits,
        "cases": count,
    }
