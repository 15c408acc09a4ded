"""DeLong's covariance of AUCs on the same cases, for several cases per patient and averaged over folds."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy.stats import norm, rankdata

from evaluation.statistics.patient_bootstrap import DRAWS
from evaluation.statistics.roc import QUANTILE, check_scores, score_interval


@dataclass(frozen=True)
class Areas:
    """AUCs of k classifiers on the same cases, averaged over folds.

    Attributes:
        means: one per classifier.
        covariance: of these means.
        folds: AUCs of each fold.
        counts: positives and negatives of each fold.
    """

    means: Float[np.ndarray, " k"]
    covariance: Float[np.ndarray, "k k"]
    folds: Float[np.ndarray, "f k"]
    counts: Int[np.ndarray, "f 2"]

    def interval(self, index: int) -> tuple[float, float]:
        """Normal interval clipped to [0, 1], or a score interval if the classes are separated without error."""
        mean, error = float(self.means[index]), float(np.sqrt(self.covariance[index, index]))
        if error < 1e-9:
            return score_interval(mean, *(int(n) for n in self.counts.sum(axis=0)))
        reach = float(QUANTILE * error)
        return max(0.0, mean - reach), min(1.0, mean + reach)

    def p_value(self, index: int) -> float | None:
        """Two-sided p value of an AUC of 0.5; None if the classes are separated without error."""
        error = float(np.sqrt(self.covariance[index, index]))
        return None if error < 1e-9 else float(2.0 * norm.sf(abs(self.means[index] - 0.5) / error))

    def difference(self, first: int, second: int) -> tuple[float, float | None, float | None, float | None]:
        """`first - second`, its interval and the two-sided p value of equal AUCs; None if neither AUC varies."""
        cov, mean = self.covariance, float(self.means[first] - self.means[second])
        error = float(np.sqrt(max(cov[first, first] + cov[second, second] - 2.0 * cov[first, second], 0.0)))
        if error < 1e-9:
            return mean, None, None, None
        reach = float(QUANTILE * error)
        return mean, mean - reach, mean + reach, float(2.0 * norm.sf(abs(mean) / error))


def placements(
    scores: Float[np.ndarray, "k n"], labels: Int[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, "k m"], Float[np.ndarray, "k l"]]:
    """Share of the negatives below each positive, and of the positives above each negative; ties count one half.

    DeLong's structural components from midranks (Sun and Xu 2014).
    """
    scores, labels = np.atleast_2d(np.asarray(scores, dtype=np.float64)), np.asarray(labels)
    positive, negative = scores[:, labels == 1], scores[:, labels == 0]
    m, n = positive.shape[1], negative.shape[1]
    together = rankdata(np.concatenate([positive, negative], axis=1), axis=1)
    above = (together[:, :m] - rankdata(positive, axis=1)) / n
    below = 1.0 - (together[:, m:] - rankdata(negative, axis=1)) / m
    return above, below


def auc_covariance(
    scores: Float[np.ndarray, "k n"], labels: Int[np.ndarray, " n"], patients: Shaped[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, "k k"]]:
    """AUCs of k classifiers on the same cases and their covariance; ValueError as `check_scores`.

    DeLong, DeLong and Clarke-Pearson (1988) with Obuchowski's (1997) extension to several cases per patient.
    """
    scores, labels = np.atleast_2d(np.asarray(scores, dtype=np.float64)), np.asarray(labels)
    for row in scores:
        check_scores(row, labels)
    above, below = placements(scores, labels)
    means = above.mean(axis=1)
    m, n = above.shape[1], below.shape[1]
    _, owner = np.unique(np.asarray(patients), return_inverse=True)
    count = owner.max() + 1
    of_positive = _summed(above - means[:, None], owner[labels == 1], count)
    of_negative = _summed(below - means[:, None], owner[labels == 0], count)
    covariance = _corrected(of_positive, of_positive, len(np.unique(owner[labels == 1]))) / m**2
    covariance = covariance + _corrected(of_negative, of_negative, len(np.unique(owner[labels == 0]))) / n**2
    cross = _corrected(of_positive, of_negative, count) / (m * n)
    return means, covariance + cross + cross.T


def areas(
    scores: Float[np.ndarray, "k n"],
    labels: Int[np.ndarray, " n"],
    patients: Shaped[np.ndarray, " n"],
    folds: Shaped[np.ndarray, " n"] | None = None,
) -> Areas:
    """AUCs per fold and their mean; scores of different folds come from different models and are never pooled.

    Folds have different patients, so their AUCs are taken as independent, although their models share training cases.
    ValueError as `check_scores`.
    """
    scores, labels = np.atleast_2d(scores), np.asarray(labels)
    folds = np.zeros(len(labels), dtype=int) if folds is None else np.asarray(folds)
    means, covariances, counts = [], [], []
    for fold in np.unique(folds):
        chosen = folds == fold
        mean, covariance = auc_covariance(scores[:, chosen], labels[chosen], np.asarray(patients)[chosen])
        means.append(mean)
        covariances.append(covariance)
        counts.append([int(labels[chosen].sum()), int((labels[chosen] == 0).sum())])
    total = np.sum(covariances, axis=0) / len(covariances) ** 2
    return Areas(np.mean(means, axis=0), total, np.array(means), np.array(counts))


def bootstrap_areas(
    scores: Float[np.ndarray, "k n"],
    labels: Int[np.ndarray, " n"],
    patients: Shaped[np.ndarray, " n"],
    folds: Shaped[np.ndarray, " n"] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Float[np.ndarray, "draws k"]:
    """AUCs, averaged over folds, of patients drawn with replacement within each fold; NaN for a draw of one class."""
    scores, labels = np.atleast_2d(np.asarray(scores, dtype=np.float64)), np.asarray(labels)
    folds = np.zeros(len(labels), dtype=int) if folds is None else np.asarray(folds)
    total = np.zeros((draws, len(scores)))
    names = np.unique(folds)
    for number, fold in enumerate(names):
        chosen = folds == fold
        total += _drawn(scores[:, chosen], labels[chosen], np.asarray(patients)[chosen], draws, (seed, number))
    return total / len(names)


def _drawn(scores, labels, patients, draws: int, seed) -> np.ndarray:
    _, owner = np.unique(patients, return_inverse=True)
    count = owner.max() + 1
    drawn = np.random.default_rng(seed).integers(count, size=(draws, count))
    times = np.stack([np.bincount(row, minlength=count) for row in drawn])[:, owner].astype(np.float64)
    up, down = times[:, labels == 1], times[:, labels == 0]
    pairs = up.sum(axis=1) * down.sum(axis=1)
    found = np.full((draws, len(scores)), np.nan)
    for column, row in enumerate(scores):
        positive, negative = row[labels == 1], row[labels == 0]
        wins = (positive[:, None] > negative).astype(np.float64) + 0.5 * (positive[:, None] == negative)
        won = ((up @ wins) * down).sum(axis=1)
        np.divide(won, pairs, out=found[:, column], where=pairs > 0)
    return found


def _summed(values: np.ndarray, owner: np.ndarray, count: int) -> np.ndarray:
    return np.stack([np.bincount(owner, weights=row, minlength=count) for row in values])


def _corrected(first: np.ndarray, second: np.ndarray, count: int) -> np.ndarray:
    """Sum of products over patients, corrected for the mean; a single patient has no variance."""
    return first @ second.T * (count / (count - 1) if count > 1 else 1.0)
