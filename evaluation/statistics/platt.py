"""Probabilities from scores: Platt's recalibration on validation cases, Brier score, reliability."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize
from scipy.special import expit

from evaluation.statistics.binary_metrics import wilson

BINS = 8


@dataclass(frozen=True)
class Recalibration:
    """Probability of the positive class: the logistic function of `slope * logit + offset`."""

    slope: float
    offset: float

    def __call__(self, logits: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        return expit(self.slope * np.asarray(logits, dtype=np.float64) + self.offset)


def fit_recalibration(logits: Float[np.ndarray, " n"], labels: Int[np.ndarray, " n"]) -> Recalibration:
    """Maximum likelihood with Platt's (1999) targets, `(N+ + 1) / (N+ + 2)` and `1 / (N- + 2)`.

    The targets keep the slope finite if the classes are separated without error. A negative slope is excluded, so
    recalibration does not reverse a ranking.
    """
    logits, labels = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    positives, negatives = int(labels.sum()), int((labels == 0).sum())
    targets = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    centre, scale = float(logits.mean()), float(logits.std()) or 1.0
    standard = (logits - centre) / scale

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        z = x[0] * standard + x[1]
        error = expit(z) - targets
        return float((np.logaddexp(0.0, z) - targets * z).mean()), np.array([(error * standard).mean(), error.mean()])

    start = np.array([1.0, np.log(targets.mean() / (1.0 - targets.mean()))])
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0.0, None), (None, None)])
    slope = float(found.x[0]) / scale
    return Recalibration(slope, float(found.x[1]) - slope * centre)


def brier(probabilities: Float[np.ndarray, " n"], labels: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Squared error of each probability; the mean is the Brier score (Brier 1950)."""
    return (np.asarray(probabilities, dtype=np.float64) - np.asarray(labels)) ** 2


def reliability(probabilities: Float[np.ndarray, " n"], labels: Int[np.ndarray, " n"]) -> list[dict[str, float]]:
    """Mean probability and observed share of positives with its Wilson interval, in bins of equally many cases."""
    probabilities, labels = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    order, found = np.argsort(probabilities, kind="stable"), []
    for part in np.array_split(order, min(BINS, max(1, len(order) // 5))):
        hits, count = int(labels[part].sum()), len(part)
        low, high = wilson(hits, count)
        means = {"predicted": float(probabilities[part].mean()), "observed": hits / count}
        found.append(means | {"low": low, "high": high, "count": count})
    return found
