"""Intervals that resample patients: every case of a drawn patient comes along, and methods are compared pairwise."""

from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float, Shaped

DRAWS = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over cases with its interval; `low` and `high` are None where there is only one patient."""

    mean: float | None
    low: float | None
    high: float | None

    def as_dict(self, digits: int = 6) -> dict[str, float | None]:
        """Plain JSON: no NaN, which is not JSON, and no float noise."""
        return {key: None if value is None else round(value, digits) for key, value in asdict(self).items()}


def bootstrap_mean(
    values: Float[np.ndarray, " n"],
    patients: Shaped[np.ndarray, " n"],
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
) -> Estimate:
    """Mean over cases and its percentile bootstrap interval over patients.

    A case without a value (NaN) is left out. The draws depend on `seed` and on the number of patients alone.
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
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return Estimate(mean, float(low), float(high))


def paired_difference(
    first: Float[np.ndarray, " n"],
    second: Float[np.ndarray, " n"],
    patients: Shaped[np.ndarray, " n"],
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
) -> Estimate:
    """Mean of `first - second` on the same cases, with its interval; cases without both values are left out."""
    return bootstrap_mean(np.subtract(first, second, dtype=np.float64), patients, draws, seed, level)


def derangement(patients: Shaped[np.ndarray, " n"], seed: int = 0) -> np.ndarray | None:
    """For every case the index of another patient's case, fixed by `seed`; None if there is only one patient.

    A permutation unless one patient owns more than half of the cases.
    """
    patients = np.asarray(patients)
    names, owner, counts = np.unique(patients, return_inverse=True, return_counts=True)
    if len(names) < 2:
        return None
    generator = np.random.default_rng(seed)
    patient_rank = generator.permutation(len(names))
    order = np.lexsort((generator.random(len(patients)), patient_rank[owner]))  # a patient's cases stand together
    partner = np.empty(len(patients), dtype=np.int64)
    partner[order] = np.roll(order, -counts.max())  # further than any patient's group is long
    for case in np.flatnonzero(patients[partner] == patients):
        partner[case] = generator.choice(np.flatnonzero(patients != patients[case]))
    return partner
