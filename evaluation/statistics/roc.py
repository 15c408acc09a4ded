"""ROC and precision-recall points, AUC, thresholds, and the expected width of the interval of an AUC."""

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import brentq
from scipy.stats import norm
from sklearn.metrics import roc_auc_score, roc_curve

from evaluation.statistics.patient_bootstrap import LEVEL

QUANTILE = norm.ppf(0.5 + LEVEL / 2.0)


def check_scores(scores: Float[np.ndarray, " n"], labels: Int[np.ndarray, " n"]) -> None:
    """Raises ValueError for labels other than 0 and 1, for one class only, and for scores that are not finite."""
    scores, labels = np.asarray(scores), np.asarray(labels)
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"scores: labels {sorted(set(labels.tolist()))}; give 0 and 1 only")
    positives = int(labels.sum())
    if positives in (0, len(labels)):
        raise ValueError(f"scores: {positives} of {len(labels)} cases are positive; a ROC curve needs both classes")
    wrong = int((~np.isfinite(scores)).sum())
    if wrong:
        raise ValueError(f"scores: {wrong} of {len(scores)} are not finite; check the classifier")


def auc(scores: Float[np.ndarray, " n"], labels: Int[np.ndarray, " n"]) -> float:
    """Area under the ROC curve, the Mann-Whitney statistic with ties as one half; ValueError as `check_scores`."""
    check_scores(scores, labels)
    return float(roc_auc_score(labels, scores))


def roc_points(
    scores: Float[np.ndarray, " n"], labels: Int[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " t"], Float[np.ndarray, " t"]]:
    """False and true positive rates from (0, 0) to (1, 1), one point per distinct score."""
    check_scores(scores, labels)
    return roc_curve(labels, np.asarray(scores, dtype=np.float64), drop_intermediate=False)[:2]


def precision_recall_points(
    scores: Float[np.ndarray, " n"], labels: Int[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " t"], Float[np.ndarray, " t"]]:
    """Recall and precision, one point per distinct score in descending order, without interpolation."""
    _, hits, misses = _cumulated(scores, labels)
    return hits / hits[-1], hits / (hits + misses)


def youden_threshold(scores: Float[np.ndarray, " n"], labels: Int[np.ndarray, " n"]) -> float:
    """The threshold of the largest sensitivity + specificity (Youden 1950), midway between two scores.

    Of equally good thresholds the most sensitive one.
    """
    values, hits, misses = _cumulated(scores, labels)
    quality = hits / hits[-1] - misses / misses[-1]
    return _between(values, int(np.flatnonzero(quality >= quality.max() - 1e-12)[-1]))


def sensitive_threshold(scores: Float[np.ndarray, " n"], labels: Int[np.ndarray, " n"], target: float = 0.95) -> float:
    """The highest threshold with a sensitivity of at least `target`; ValueError for a target outside 0 to 1."""
    if not 0.0 < target <= 1.0:
        raise ValueError(f"sensitivity={target}: must be above 0 and at most 1")
    values, hits, _ = _cumulated(scores, labels)
    return _between(values, int(np.flatnonzero(hits / hits[-1] >= target - 1e-12)[0]))


def hanley_mcneil_variance(area: float, positives: int, negatives: int) -> float:
    """Variance of an AUC from its value and the class counts (Hanley and McNeil 1982)."""
    q1, q2 = area / (2.0 - area), 2.0 * area**2 / (1.0 + area)
    spread = area * (1.0 - area) + (positives - 1) * (q1 - area**2) + (negatives - 1) * (q2 - area**2)
    return spread / (positives * negatives)


def expected_half_width(area: float, positives: int, negatives: int, folds: int = 1) -> float:
    """Expected half width of the interval of an AUC of `area`, averaged over folds.

    `positives` and `negatives` are the test cases of a fold. ValueError for an AUC outside 0.5 to 1 or an empty class.
    """
    if not 0.5 <= area < 1.0:
        raise ValueError(f"expected_auc={area}: give 0.5 to below 1")
    if min(positives, negatives) < 1:
        raise ValueError(f"{positives} positive and {negatives} negative test cases: each class needs at least one")
    return float(QUANTILE * np.sqrt(hanley_mcneil_variance(area, positives, negatives) / folds))


def score_interval(area: float, positives: int, negatives: int) -> tuple[float, float]:
    """The AUCs within a normal quantile of `area` by their own Hanley-McNeil error (Newcombe 2006, method 5).

    It has a width even if the classes are separated without error.
    """

    def excess(other: float) -> float:
        return abs(area - other) - QUANTILE * np.sqrt(max(hanley_mcneil_variance(other, positives, negatives), 0.0))

    inner = 1e-9  # excludes the roots at 0 and 1, where the error is zero
    low = brentq(excess, inner, area - inner) if area > 2 * inner and excess(inner) > 0 else 0.0
    high = brentq(excess, area + inner, 1.0 - inner) if area < 1.0 - 2 * inner and excess(1.0 - inner) > 0 else 1.0
    return float(low), float(high)


def _cumulated(scores, labels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct scores in descending order, and the numbers of positives and negatives that reach them."""
    check_scores(scores, labels)
    false_rate, true_rate, values = roc_curve(labels, np.asarray(scores, dtype=np.float64), drop_intermediate=False)
    positives = int(np.sum(labels))
    hits, misses = np.rint(true_rate * positives), np.rint(false_rate * (len(labels) - positives))
    return values[1:], hits[1:], misses[1:]  # the first point is an infinite threshold


def _between(values: np.ndarray, index: int) -> float:
    """Midway between a score and the next lower one; just below the lowest."""
    if index + 1 < len(values):
        return float((values[index] + values[index + 1]) / 2.0)
    return float(np.nextafter(values[index], -np.inf))
