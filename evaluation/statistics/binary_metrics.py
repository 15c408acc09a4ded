"""Accuracy, sensitivity, specificity, PPV and NPV of decisions, with Wilson intervals and the prevalence beside."""

import numpy as np
from jaxtyping import Bool, Int, Shaped
from scipy.stats import binomtest

from evaluation.statistics.patient_bootstrap import DRAWS, bootstrap_mean

NAMES = ("accuracy", "sensitivity", "specificity", "ppv", "npv")


def wilson(hits: int, count: int, level: float = 0.95) -> tuple[float, float]:
    """Score interval of a proportion (Wilson 1927), without continuity correction.

    Raises:
        ValueError: no trial, or more hits than trials.
    """
    if count < 1 or not 0 <= hits <= count:
        raise ValueError(f"{hits} of {count}: a proportion needs at least one trial and no more hits than trials")
    interval = binomtest(hits, count).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


def decision_table(
    positive: Bool[np.ndarray, " n"],
    labels: Int[np.ndarray, " n"],
    patients: Shaped[np.ndarray, " n"],
    draws: int = DRAWS,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, dict]:
    """`{name: {"mean", "low", "high", "hits", "count"}}` for `NAMES`; None without cases.

    Wilson intervals; bootstrap intervals over patients if a patient has several cases, which are not independent.
    """
    positive, labels, patients = np.asarray(positive, dtype=bool), np.asarray(labels), np.asarray(patients)
    right = positive == (labels == 1)
    parts = {
        "accuracy": np.ones(len(labels), dtype=bool),
        "sensitivity": labels == 1,
        "specificity": labels == 0,
        "ppv": positive,
        "npv": ~positive,
    }
    single = len(np.unique(patients)) == len(patients)
    found = {}
    for name in NAMES:
        chosen = parts[name]
        hits, count = int(right[chosen].sum()), int(chosen.sum())
        if count == 0:
            found[name] = None
            continue
        if single:
            low, high = wilson(hits, count, level)
        else:
            estimate = bootstrap_mean(right[chosen].astype(float), patients[chosen], draws, seed, level)
            low, high = estimate.low, estimate.high
        found[name] = {"mean": hits / count, "low": low, "high": high, "hits": hits, "count": count}
    return found
