"""Bootstrap intervals that resample patients with all their cases, and paired differences of methods."""

from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float, Shaped

DRAWS = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over cases with its interval; `low` and `high` are None for a single patient."""

    mean: float | None
    low: float | None
    high: float | None

    def as_dict(self, digits: int = 6) -> dict[str, float | None]:
        return {key: None if value is None else round(value, digits) for key, value in asdict(self).items()}


def bootstrap_mean(
    values: Float[np.ndarray, " n"], patients: Shaped[np.ndarray, " n"], draws: int = DRAWS, seed: int = 0
) -> Estimate:
    """Mean over cases without NaN and its percentile bootstrap interval over patients.

    The draws depend on `seed` and the number of patients only.
    """
    values, patients = np.asarray(values, dtype=np.float64), np.asarray(patients)
    known = np.isfinite(values)
    if not known.any():
        return Estimate(None, None, None)
    values = values[known]
    names, owner = np.unique(patients[known], return_inverse=True)
    mean = float(values.mean())
    if len(names) == 1:
        return Estimate(mean, None, None)
    sums = np.bincount(owner, weights=values)
    counts = np.bincount(owner).astype(np.float64)
    drawn = np.random.default_rng(seed).integers(len(names), size=(draws, len(names)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    tail = (1.0 - LEVEL) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return Estimate(mean, float(low), float(high))


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
