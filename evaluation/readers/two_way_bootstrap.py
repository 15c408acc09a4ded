"""Intervals that resample readers and patients at once, so that a result holds for other readers and patients.

Each draw weighs reader r by how often r was drawn and patient p likewise; a reading counts with the product (the
"pigeonhole" bootstrap: A. B. Owen, Annals of Applied Statistics 2007). It counts the chance of a single reading up to
three times, so it is too wide where readers and patients hardly differ, and a little narrow where few readers differ
much: in simulated studies of 3 to 10 readers its 90 % interval held the truth in 90 to 99 %. Patients are drawn within
their arm.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped

from evaluation.statistics.patient_bootstrap import DRAWS, Estimate

FEWEST = 5  # patients of a kind below which a percentile interval means nothing


@dataclass(frozen=True)
class Weights:
    """How often each reader and each patient was drawn; the first row is the study itself, all ones.

    `smallest` is the number of patients in the smallest stratum.
    """

    readers: Float[np.ndarray, "draws r"]
    patients: Float[np.ndarray, "draws p"]
    smallest: int


def draw_weights(readers: int, strata: Shaped[np.ndarray, " p"], draws: int = DRAWS, seed: int = 0) -> Weights:
    """Weights of `draws` resamples after one of the study as it is; patients are drawn within their stratum."""
    generator = np.random.default_rng(seed)
    by_reader, by_patient = np.ones((draws + 1, readers)), np.ones((draws + 1, len(strata)))
    by_reader[1:] = generator.multinomial(readers, np.full(readers, 1.0 / readers), size=draws)
    names, counts = np.unique(strata, return_counts=True)
    for name, count in zip(names, counts, strict=True):
        drawn = generator.multinomial(count, np.full(count, 1 / count), size=draws)
        by_patient[1:, np.flatnonzero(np.asarray(strata) == name)] = drawn
    return Weights(by_reader, by_patient, int(counts.min()))


def weighted_rate(values: Float[np.ndarray, "r p"], weights: Weights) -> Float[np.ndarray, " draws"]:
    """Mean of the readings under each draw; NaN is a reading that was not made."""
    known = np.isfinite(values)
    top = ((weights.readers @ np.where(known, values, 0.0)) * weights.patients).sum(axis=1)
    bottom = ((weights.readers @ known.astype(np.float64)) * weights.patients).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return top / bottom


def weighted_auc(
    negative: Float[np.ndarray, "r p"], positive: Float[np.ndarray, "r p"], weights: Weights
) -> Float[np.ndarray, " draws"]:
    """Mean over readers of each reader's AUC: how often a positive reading lies above a negative one, ties half.

    Rows are readers, columns patients; NaN is no reading. The mean omits a reader without both kinds.
    """
    total, count = np.zeros(len(weights.readers)), np.zeros(len(weights.readers))
    for reader, (low, high) in enumerate(zip(negative, positive, strict=True)):
        columns, rows = np.flatnonzero(np.isfinite(low)), np.flatnonzero(np.isfinite(high))
        if not len(columns) or not len(rows):
            continue
        above = high[rows, None] - low[None, columns]
        won = (above > 0) + 0.5 * (above == 0)
        w_high, w_low = weights.patients[:, rows], weights.patients[:, columns]
        with np.errstate(divide="ignore", invalid="ignore"):
            auc = ((w_high @ won) * w_low).sum(axis=1) / (w_high.sum(axis=1) * w_low.sum(axis=1))
        usable = np.isfinite(auc)
        total += np.where(usable, weights.readers[:, reader] * np.nan_to_num(auc), 0.0)
        count += np.where(usable, weights.readers[:, reader], 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return total / count


def estimate(values: Float[np.ndarray, " draws"], weights: Weights, level: float) -> Estimate:
    """The study's own value, which comes first, and the percentile interval of its resamples.

    No interval with one reader, or fewer than `FEWEST` patients in a stratum.
    """
    if not np.isfinite(values[0]):
        return Estimate(None, None, None)
    drawn = values[1:][np.isfinite(values[1:])]
    if weights.readers.shape[1] < 2 or weights.smallest < FEWEST or len(drawn) < 100:
        return Estimate(float(values[0]), None, None)
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(drawn, [tail, 1.0 - tail])
    return Estimate(float(values[0]), float(low), float(high))
