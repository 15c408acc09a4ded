"""Bland-Altman agreement of two methods: bias and limits of agreement, each with its interval.

A patient may have several pairs. Bland and Altman, "Measuring agreement in method comparison studies", 1999,
doi:10.1177/096228029900800204. Intervals of the limits combine those of bias and standard deviation (MOVER: Zou,
"Confidence interval estimation for the Bland-Altman limits of agreement with multiple observations per individual",
2013, doi:10.1177/0962280211402548).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped
from scipy import stats

from evaluation.statistics.patient_bootstrap import LEVEL, Estimate

COVERED = 0.95  # share of the differences between the limits of agreement
METHOD = (
    "bias: mean of the patients' mean differences, t interval over patients; limits: bias ± 1.96 standard deviations "
    "within and between patients, MOVER interval (Zou 2013)"
)


@dataclass(frozen=True)
class Agreement:
    """Bias and limits of agreement in the unit of the differences; None where too few patients define them."""

    pairs: int
    patients: int
    sd: float | None
    bias: Estimate
    lower: Estimate
    upper: Estimate

    def as_dict(self, digits: int = 6) -> dict:
        """Plain JSON."""
        ends = {name: getattr(self, name).as_dict(digits) for name in ("bias", "lower", "upper")}
        sd = None if self.sd is None else round(self.sd, digits)
        return {"pairs": self.pairs, "patients": self.patients, "sd": sd, **ends}


def bland_altman(differences: Float[np.ndarray, " n"], patients: Shaped[np.ndarray, " n"]) -> Agreement:
    """Agreement from the differences of two methods; NaN does not count.

    The variance of one difference is `s² + (1 - 1/h) w²`: `s²` of the patients' means, `w²` within patients, `h` the
    harmonic mean of the pairs of a patient. With one pair a patient it is the sample variance.
    """
    values = np.asarray(differences, dtype=np.float64)
    known = np.isfinite(values)
    names, owner, counts = np.unique(np.asarray(patients)[known], return_inverse=True, return_counts=True)
    values, nothing = values[known], Estimate(None, None, None)
    if not len(values):
        return Agreement(0, 0, None, nothing, nothing, nothing)
    means = np.bincount(owner, weights=values) / counts
    bias, k, within = float(means.mean()), len(names), len(values) - len(names)
    if k < 2:
        return Agreement(len(values), k, None, Estimate(bias, None, None), nothing, nothing)
    between = float(means.var(ddof=1))
    inner = float(((values - means[owner]) ** 2).sum() / within) if within else 0.0
    parts = [(between, k - 1), ((1.0 - np.mean(1.0 / counts)) * inner, within)]
    variance = sum(part for part, _ in parts)
    tail = (1.0 - LEVEL) / 2.0
    # distances from the variance to the ends of its interval, each part by its chi-squared law
    down, up = (
        np.sqrt(sum((part * (1.0 - free / stats.chi2.ppf(p, free))) ** 2 for part, free in parts if free))
        for p in (1.0 - tail, tail)
    )
    z, sd = float(stats.norm.ppf((1.0 + COVERED) / 2.0)), float(np.sqrt(variance))
    less, more = z * (sd - np.sqrt(max(variance - down, 0.0))), z * (np.sqrt(variance + up) - sd)
    half = float(stats.t.ppf(1.0 - tail, k - 1) * np.sqrt(between / k))
    near, far = float(np.hypot(half, less)), float(np.hypot(half, more))  # to the bias, and away from it
    lower, upper = bias - z * sd, bias + z * sd
    return Agreement(
        len(values),
        k,
        sd,
        Estimate(bias, bias - half, bias + half),
        Estimate(lower, lower - far, lower + near),
        Estimate(upper, upper - near, upper + far),
    )
