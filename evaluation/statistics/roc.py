"""Ranking by a score: ROC and precision-recall points, AUC, thresholds, and the precision to expect of an AUC."""

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import brentq
from scipy.stats import norm
from sklearn.metrics import roc_auc_score, roc_curve

from evaluation.statistics.patient_bootstrap import LEVEL


def check_scores(scores: Float[np.ndarray, " n"], labels: Int[np.ndarray, " n"], what: str = "scores") -> None:
    """Refuse what has no ROC curve.

    Raises:
        ValueError: fewer than two cases, labels beyond 0 and 1, one class only, or scores that are not finite.
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    if len(labels) < 2:
        raise ValueError(f"{what}: {len(labels)} labelled case; a ROC curve needs at least one of each class")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"{what}: labels {sorted(set(labels.tolist()))}; give 0 and 1 alone")
    if labels.min() == labels.max():
        present, absent = ("positive", "negative") if labels[0] == 1 else ("negative", "positive")
        raise ValueError(f"{what}: all {len(labels)} cases are {present}; a ROC curve needs {absent} ones too")
    wrong = int((~np.isfinite(scores)).sum())
    if wrong:
        raise ValueError(f"{what}: {wrong} of {len(scores)} scores are not finite; the classifier is broken")


def auc(scores: Float[np.ndarray, " n"], labels: Int[np.ndarray, " n"]) -> float:
    """Area under the ROC curve as the Mann-Whitney statistic: ties count one half.

    Raises:
        ValueError: of `check_scores`.
    """
    check_scores(scores, labels)
    return float(roc_auc_score(labels, scores))


def roc_points(
    scores: Float[np.ndarray, " n"], labels: Int[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " t"], Float[np.ndarray, " t"]]:
    """False and true positive rates from (0, 0) to (1, 1), one point a distinct score."""
    _, hits, misses = _cumulated(scores, labels)
    return np.concatenate([[0.0], misses / misses[-1]]), np.concatenate([[0.0], hits / hits[-1]])


def precision_recall_points(
    scores: Float[np.ndarray, " n"], labels: Int[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " t"], Float[np.ndarray, " t"]]:
    """Recall and precision, one point a distinct score from the highest down; no interpolation between them."""
    _, hits, misses = _cumulated(scores, labels)
    return hits / hits[-1], hits / (hits + misses)


def youden_threshold(scores: Float[np.ndarray, " n"], labels: Int[np.ndarray, " n"]) -> float:
    """The score from which a case is called positive so that sensitivity + specificity is largest (Youden 1950).

    It lies half way between two scores. Of equally good ones the most sensitive is taken.
    """
    values, hits, misses = _cumulated(scores, labels)
    quality = hits / hits[-1] - misses / misses[-1]
    return _between(values, int(np.flatnonzero(quality >= quality.max() - 1e-12)[-1]))


def sensitive_threshold(scores: Float[np.ndarray, " n"], labels: Int[np.ndarray, " n"], target: float = 0.95) -> float:
    """The highest threshold that calls at least `target` of the positives positive.

    Raises:
        ValueError: a target outside 0 to 1.
    """
    if not 0.0 < target <= 1.0:
        raise ValueError(f"sensitivity={target}: must be above 0 and at most 1")
    values, hits, _ = _cumulated(scores, labels)
    return _between(values, int(np.flatnonzero(hits / hits[-1] >= target - 1e-12)[0]))


def hanley_mcneil_variance(area: float, positives: int, negatives: int) -> float:
    """Variance of an AUC from its value and the class counts alone (Hanley and McNeil 1982)."""
    q1, q2 = area / (2.0 - area), 2.0 * area**2 / (1.0 + area)
    spread = area * (1.0 - area) + (positives - 1) * (q1 - area**2) + (negatives - 1) * (q2 - area**2)
    return spread / (positives * negatives)


def expected_half_width(area: float, positives: int, negatives: int, folds: int = 1, level: float = LEVEL) -> float:
    """Half the width of the interval to expect for an AUC of `area`; over folds, whose AUCs are averaged.

    Args:
        positives, negatives: cases of one test part.

    Raises:
        ValueError: an AUC outside 0.5 to 1, or an empty class.
    """
    if not 0.5 <= area < 1.0:
        raise ValueError(f"expected_auc={area}: give 0.5 to below 1")
    if min(positives, negatives) < 1:
        raise ValueError(f"{positives} positive and {negatives} negative test cases: each class needs at least one")
    quantile = norm.ppf(0.5 + level / 2.0)
    return float(quantile * np.sqrt(hanley_mcneil_variance(area, positives, negatives) / folds))


def score_interval(area: float, positives: int, negatives: int, level: float = LEVEL) -> tuple[float, float]:
    """The AUCs that lie within a normal quantile of `area` by their own Hanley-McNeil error (Newcombe 2006, method 5).

    It does not shrink to a point where two classes are separated without an error.
    """
    quantile = norm.ppf(0.5 + level / 2.0)

    def excess(other: float) -> float:
        return abs(area - other) - quantile * np.sqrt(max(hanley_mcneil_variance(other, positives, negatives), 0.0))

    inner = 1e-9  # at 0 and 1 the error is zero, which is a root of its own
    low = brentq(excess, inner, area - inner) if area > 2 * inner and excess(inner) > 0 else 0.0
    high = brentq(excess, area + inner, 1.0 - inner) if area < 1.0 - 2 * inner and excess(1.0 - inner) > 0 else 1.0
    return float(low), float(high)


def _cumulated(scores, labels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct scores from the highest down, and how many positives and negatives reach each."""
    check_scores(scores, labels)
    false_rate, true_rate, values = roc_curve(labels, np.asarray(scores, dtype=np.float64), drop_intermediate=False)
    positives = int(np.sum(labels))
    hits, misses = np.rint(true_rate * positives), np.rint(false_rate * (len(labels) - positives))
    return values[1:], hits[1:], misses[1:]  # the first point is an infinite threshold


def _between(values: np.ndarray, index: int) -> float:
    """Half way from a score to the next lower one; below the lowest, just under it."""
    if index + 1 < len(values):
        return float((values[index] + values[index + 1]) / 2.0)
    return float(np.nextafter(values[index], -np.inf))
