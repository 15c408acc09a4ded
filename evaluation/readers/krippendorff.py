"""Agreement between readers on an ordinal scale: Krippendorff's alpha, with an interval that resamples patients.

Formulas: K. Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), sections D and F.
"""

import numpy as np
from jaxtyping import Float, Shaped

from evaluation.readers.two_way_bootstrap import FEWEST
from evaluation.statistics.patient_bootstrap import DRAWS, LEVEL, Estimate


def coincidences(ratings: Float[np.ndarray, "readers units"], levels: int) -> Float[np.ndarray, "units k k"]:
    """What each unit adds to the coincidence matrix `o_ck`: its pairs of ratings over its ratings less 1.

    Ratings are 1 to `levels`, NaN where a reader gave none; a unit with a single rating pairs with nothing. Raises
    ValueError for a rating outside of the scale.
    """
    ratings = np.asarray(ratings, dtype=np.float64)
    known = np.isfinite(ratings)
    if not np.isin(ratings[known], np.arange(1, levels + 1)).all():
        raise ValueError(f"ratings must be whole numbers from 1 to {levels}")
    counts = (ratings.T[:, :, None] == np.arange(1, levels + 1)).sum(axis=1).astype(np.float64)
    pairs = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(levels)
    total = counts.sum(axis=1)
    return np.where(total > 1, 1.0 / np.maximum(total - 1.0, 1.0), 0.0)[:, None, None] * pairs


def ordinal_alpha(matrices: Float[np.ndarray, "draws k k"]) -> Float[np.ndarray, " draws"]:
    """Alpha of summed coincidence matrices: 1 is full agreement, 0 is chance; NaN where all ratings are one value.

    The distance of c and k is the squared number of ratings between them, ends counted half (ordinal metric).
    """
    marginals = matrices.sum(axis=2)
    below = np.cumsum(marginals, axis=1) - marginals / 2.0  # ratings below the middle of each value
    distance = (below[:, :, None] - below[:, None, :]) ** 2
    observed = (matrices * distance).sum(axis=(1, 2))
    expected = (marginals[:, :, None] * marginals[:, None, :] * distance).sum(axis=(1, 2))
    total = marginals.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(expected > 0, 1.0 - (total - 1.0) * observed / expected, np.nan)


def krippendorff(
    ratings: Float[np.ndarray, "readers units"],
    levels: int,
    patients: Shaped[np.ndarray, " units"] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Estimate:
    """Ordinal alpha with its percentile interval over patients; None where nothing pairs or nothing varies.

    No interval with fewer than `FEWEST` patients. Readers are not resampled: a reader drawn twice would agree with
    himself.
    """
    units = coincidences(ratings, levels)
    alpha = float(ordinal_alpha(units.sum(axis=0, keepdims=True))[0])
    if not np.isfinite(alpha):
        return Estimate(None, None, None)
    names, owner = np.unique(np.arange(units.shape[0]) if patients is None else patients, return_inverse=True)
    if len(names) < FEWEST:
        return Estimate(alpha, None, None)
    sums = np.zeros((len(names), levels, levels))
    np.add.at(sums, owner, units)
    weights = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    drawn = ordinal_alpha(np.tensordot(weights, sums, axes=1))
    tail = (1.0 - LEVEL) / 2.0
    low, high = np.nanquantile(drawn, [tail, 1.0 - tail])
    return Estimate(alpha, float(low), float(high))
