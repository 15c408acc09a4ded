"""Inference over training seeds and patients at once: a mean that holds for other trainings and other patients."""

import numpy as np
from jaxtyping import Float
from scipy import stats
from scipy.optimize import brentq

from evaluation.statistics.patient_bootstrap import LEVEL, Estimate

SMALLEST_P = 1e-9


def over_seeds_and_patients(values: Float[np.ndarray, "s p"], margin: float = 0.0) -> tuple[Estimate, float]:
    """Mean of a value of every seed and patient with its interval, and the two-sided p value of a mean of `margin`.

    The mixed model `y_sp = μ + a_s + b_p + e_sp` with random seeds and patients: the variance of the mean is
    `(MS_seed + max(MS_patient - MS_error, 0)) / (s p)` by the mean squares of the two-way layout. The half width of
    the interval is the root of the sum of the squared half widths of both parts, each with its own degrees of freedom
    (modified large samples, Graybill and Wang, "Confidence intervals on nonnegative linear combinations of variances",
    1980), because Satterthwaite's degrees of freedom cover too little with two seeds. Seeds that differ by more than
    their patients explain then count as s - 1 degrees of freedom, so two of them show only large effects. Raises
    ValueError for fewer than two seeds or patients: one seed says nothing about another.
    """
    values = np.asarray(values, dtype=np.float64)
    seeds, patients = values.shape
    if min(seeds, patients) < 2:
        raise ValueError(f"{seeds} seeds and {patients} patients: inference over both needs at least two of each")
    mean = float(values.mean())
    by_seed, by_patient = values.mean(axis=1, keepdims=True), values.mean(axis=0, keepdims=True)
    of_seeds = patients * ((by_seed - mean) ** 2).sum() / (seeds - 1)
    of_patients = seeds * ((by_patient - mean) ** 2).sum() / (patients - 1)
    of_error = ((values - by_seed - by_patient + mean) ** 2).sum() / ((seeds - 1) * (patients - 1))
    parts = np.array([of_seeds, max(of_patients - of_error, 0.0)]) / values.size
    freedom = np.array([seeds - 1, patients - 1])

    def half_width(tail: float) -> float:
        return float(np.sqrt((stats.t.isf(tail / 2.0, freedom) ** 2 * parts).sum()))

    half, gap = half_width(1.0 - LEVEL), abs(mean - margin)
    if half == 0.0 or gap == 0.0:
        p = float(gap == 0.0)
    elif half_width(SMALLEST_P) <= gap:
        p = SMALLEST_P
    else:
        p = float(brentq(lambda tail: half_width(tail) - gap, SMALLEST_P, 1.0))
    return Estimate(mean, mean - half, mean + half), p
