"""Split-conformal intervals: order statistics of samples, widened by a margin from calibration cases.

For exchangeable cases an interval of level L contains the truth of a new case with probability at least L, on average
over calibration sets (Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World", 2005; Romano et al.,
"Conformalized Quantile Regression", 2019). The guarantee does not hold for cases from another population.
"""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

TOLERANCE = 1e-9  # for rounding errors of levels: 0.1 * 20 must be 2


def samples_needed(level: float) -> int:
    """Smallest number of samples for an interval, `2 / (1 - level)`; ValueError for a level outside 0 to 1."""
    if not 0.0 < level < 1.0:
        raise ValueError(f"level={level:g}: give a number between 0 and 1, such as 0.9")
    return math.ceil(2.0 / (1.0 - level) - TOLERANCE)


def cases_needed(level: float, tails: int = 2) -> int:
    """Smallest number of calibration cases for a margin; with two tails each may miss half as often."""
    return math.ceil(tails / (1.0 - level) - 1.0 - TOLERANCE)


def rank_of(samples: int, level: float) -> int:
    """k of the interval from the k-th smallest to the k-th largest of n samples; ValueError for too few.

    Another sample lies inside with probability `(n + 1 - 2k) / (n + 1) >= level`, for `k = ⌊(n + 1) (1 - level) / 2⌋`.
    """
    needed = samples_needed(level)
    if samples < needed:
        raise ValueError(f"samples={samples}: an interval of level {level:g} needs at least {needed} samples")
    return math.floor((samples + 1) * (1.0 - level) / 2.0 + TOLERANCE)


def order_interval(samples: Float[Tensor, " s *shape"], level: float) -> tuple[Float[Tensor, "*shape"], ...]:
    """The k-th smallest and k-th largest sample at each position, for `k = rank_of(s, level)`."""
    k = rank_of(len(samples), level)
    if k == 1:  # a sort of volumes takes seconds
        return samples.amin(dim=0), samples.amax(dim=0)
    ordered = samples.sort(dim=0).values
    return ordered[k - 1], ordered[len(samples) - k]


def conformal_margin(scores: Float[np.ndarray, " n"], level: float) -> float:
    """The `⌈(n + 1) level⌉`-th smallest score of n calibration cases; ValueError for too few, NaN and infinity.

    The score of another exchangeable case is at most that with a probability of at least `level` and, without ties,
    less than `level + 1 / (n + 1)`.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if not np.isfinite(scores).all():
        raise ValueError("calibration scores must be finite")
    rank = math.ceil((len(scores) + 1) * level - TOLERANCE)
    if rank > len(scores):
        needed = cases_needed(level, tails=1)
        raise ValueError(f"{len(scores)} calibration cases: the level {level:g} needs at least {needed}")
    return float(np.sort(scores)[rank - 1])


def share_score(excess: Float[Tensor, " m"], share: float) -> float:
    """The smallest margin with which `share` of the positions lie inside: the `⌈m share⌉`-th smallest excess."""
    rank = math.ceil(len(excess) * share - TOLERANCE)
    return float(torch.kthvalue(excess, rank).values)


def coverage_p(covered: int, cases: int, calibration_cases: int, level: float, ends: int = 1) -> float:
    """Two-sided p value of a number of covered test cases if the promise holds.

    The coverage of a margin from m calibration cases is itself random, Beta(k, m + 1 - k) with k = ⌈(m + 1) level⌉, so
    the number of covered cases is beta-binomial (Vovk, "Conditional validity of inductive conformal predictors",
    2012): a binomial test would reject a right margin too often. With two `ends`, each with a margin of its own for
    half of the misses, 2 j of the m + 1 ranks lie outside, j = m + 1 - ⌈(m + 1) (1 + level) / 2⌉.
    """
    ranks = calibration_cases + 1
    outside = ranks - math.ceil(ranks * (1.0 - (1.0 - level) / ends) - TOLERANCE)
    from scipy.stats import betabinom  # late: a generation imports this module and needs no law

    law = betabinom(cases, ranks - ends * outside, ends * outside)
    return float(min(1.0, 2.0 * min(law.cdf(covered), law.sf(covered - 1))))


def coverage(covered: np.ndarray) -> dict[str, float | int]:
    """Share of covered cases with its exact binomial interval of 95 % (Clopper and Pearson 1934)."""
    covered = np.asarray(covered, dtype=bool)
    hits, count = int(covered.sum()), len(covered)
    from scipy.stats import binomtest  # late, as above

    interval = binomtest(hits, count).proportion_ci(0.95, "exact")
    return {
        "mean": round(hits / count, 6),
        "low": round(float(interval.low), 6),
        "high": round(float(interval.high), 6),
        "covered": hits,
        "cases": count,
    }
