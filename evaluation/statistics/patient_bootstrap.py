"""Intervals over patients with all their cases, and paired differences of methods.

From `FEW_PATIENTS` on an interval is the percentile bootstrap over patients. Below it covers less than it promises
(0.89 with 8 patients for 0.95), so it is a t interval with the standard error of the linearised ratio of sums over
patients (Cochran, "Sampling Techniques", 1977, section 2.11) and one degree of freedom less than patients.
"""

from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float, Shaped
from scipy import stats

DRAWS = 2000
LEVEL = 0.95
FEW_PATIENTS = 20
SHOWN_PATIENTS = 5  # tables show no interval of fewer, which would exceed the range of any metric
METHOD = f"percentile bootstrap over patients; t interval over patients below {FEW_PATIENTS}"


@dataclass(frozen=True)
class Estimate:
    """A mean over cases with its interval; `low` and `high` are None for a single patient."""

    mean: float | None
    low: float | None
    high: float | None

    def within(self, least: float, most: float) -> "Estimate":
        """The same with the interval clipped to the range of the quantity, which a t interval may exceed."""
        ends = (None if end is None else min(max(end, least), most) for end in (self.low, self.high))
        return Estimate(self.mean, *ends)

    def as_dict(self, digits: int = 6) -> dict[str, float | None]:
        return {key: None if value is None else round(value, digits) for key, value in asdict(self).items()}


def bootstrap_mean(
    values: Float[np.ndarray, " n"], patients: Shaped[np.ndarray, " n"], draws: int = DRAWS, seed: int = 0
) -> Estimate:
    """Mean over cases without NaN and its interval over patients.

    The draws depend on `seed` and the number of patients only.
    """
    return bootstrap_ratio(values, np.ones(len(values)), patients, draws, seed)


def bootstrap_ratio(
    numerators: Float[np.ndarray, " n"],
    denominators: Float[np.ndarray, " n"],
    patients: Shaped[np.ndarray, " n"],
    draws: int = DRAWS,
    seed: int = 0,
) -> Estimate:
    """Sum of the numerators over that of the denominators, over cases without NaN, and its interval over patients.

    Denominators are not negative; a patient whose denominators are all 0 says nothing and does not count.
    """
    above, below = (np.asarray(part, dtype=np.float64) for part in (numerators, denominators))
    known = np.isfinite(above) & np.isfinite(below)
    _, owner = np.unique(np.asarray(patients)[known], return_inverse=True)
    above, below = (np.bincount(owner, weights=part[known]) for part in (above, below))
    above, below = above[below > 0.0], below[below > 0.0]
    count = len(below)
    if count == 0:
        return Estimate(None, None, None)
    ratio = float(above.sum() / below.sum())
    if count == 1:
        return Estimate(ratio, None, None)
    tail = (1.0 - LEVEL) / 2.0
    if count < FEW_PATIENTS:
        residual = (above - ratio * below) / below.mean()
        error = np.sqrt((residual**2).sum() / (count * (count - 1)))
        half = float(stats.t.ppf(1.0 - tail, count - 1) * error)
        return Estimate(ratio, ratio - half, ratio + half)
    drawn = _draws(count, draws, seed)
    low, high = np.quantile(above[drawn].sum(axis=1) / below[drawn].sum(axis=1), [tail, 1.0 - tail])
    return Estimate(ratio, float(low), float(high))


def without_few(result, patients: int):
    """A result, or a part of it, without the intervals of estimates over fewer than `SHOWN_PATIENTS` patients.

    `patients` is the number behind estimates that do not hold their own.
    """
    if isinstance(result, list):
        return [without_few(part, patients) for part in result]
    if not isinstance(result, dict):
        return result
    few = {"mean", "low", "high"} <= result.keys() and result.get("patients", patients) < SHOWN_PATIENTS
    return {key: None if few and key in ("low", "high") else without_few(v, patients) for key, v in result.items()}


def resampled_means(
    values: Float[np.ndarray, "n r"], patients: Shaped[np.ndarray, " n"], draws: int = DRAWS, seed: int = 0
) -> Float[np.ndarray, "draws r"] | None:
    """Means over cases of every draw of patients; None below `FEW_PATIENTS`."""
    names, owner = np.unique(np.asarray(patients), return_inverse=True)
    if len(names) < FEW_PATIENTS:
        return None
    sums = np.stack([np.bincount(owner, weights=column) for column in np.asarray(values, dtype=np.float64).T])
    counts, drawn = np.bincount(owner).astype(np.float64), _draws(len(names), draws, seed)
    return (sums[:, drawn].sum(axis=2) / counts[drawn].sum(axis=1)).T


def _draws(patients: int, draws: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(patients, size=(draws, patients))


def paired_difference(
    first: Float[np.ndarray, " n"],
    second: Float[np.ndarray, " n"],
    patients: Shaped[np.ndarray, " n"],
    draws: int = DRAWS,
    seed: int = 0,
) -> Estimate:
    """Mean of `first - second` over the cases with both values, with its interval."""
    return bootstrap_mean(np.subtract(first, second, dtype=np.float64), patients, draws, seed)


def derangement(patients: Shaped[np.ndarray, " n"], seed: int = 0) -> np.ndarray | None:
    """For every case the index of another patient's case, by `seed`; None for a single patient.

    A permutation unless one patient has more than half of the cases.
    """
    patients = np.asarray(patients)
    names, owner, counts = np.unique(patients, return_inverse=True, return_counts=True)
    if len(names) < 2:
        return None
    generator = np.random.default_rng(seed)
    patient_rank = generator.permutation(len(names))
    order = np.lexsort((generator.random(len(patients)), patient_rank[owner]))  # groups the cases of a patient
    partner = np.empty(len(patients), dtype=np.int64)
    partner[order] = np.roll(order, -counts.max())  # farther than the largest group
    for case in np.flatnonzero(patients[partner] == patients):
        partner[case] = generator.choice(np.flatnonzero(patients != patients[case]))
    return partner
