"""Accuracy, sensitivity, specificity, PPV and NPV of decisions, with intervals."""

import numpy as np
from jaxtyping import Bool, Int, Shaped
from scipy.stats import binomtest

from evaluation.statistics.patient_bootstrap import DRAWS, LEVEL, bootstrap_mean


def wilson(hits: int, count: int) -> tuple[float, float]:
    """Score interval of a proportion (Wilson 1927), without continuity correction."""
    interval = binomtest(hits, count).proportion_ci(LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def decision_table(
    positive: Bool[np.ndarray, " n"],
    labels: Int[np.ndarray, " n"],
    patients: Shaped[np.ndarray, " n"],
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, dict | None]:
    """`{name: {"mean", "low", "high", "hits", "count"}}`, None for a rate without cases.

    Wilson intervals; if a patient has several cases, which are not independent, those of `bootstrap_mean` in [0, 1].
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
    for name, chosen in parts.items():
        hits, count = int(right[chosen].sum()), int(chosen.sum())
        if count == 0:
            found[name] = None
            continue
        if single:
            low, high = wilson(hits, count)
        else:
            estimate = bootstrap_mean(right[chosen].astype(float), patients[chosen], draws, seed).within(0.0, 1.0)
            low, high = estimate.low, estimate.high
        found[name] = {"mean": hits / count, "low": low, "high": high, "hits": hits, "count": count}
    return found
