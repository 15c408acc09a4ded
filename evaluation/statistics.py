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


def sign_flip_p(
    differences: Float[np.ndarray, " n"], patients: Shaped[np.ndarray, " n"], draws: int = 20000, seed: int = 0
) -> float | None:
    """Two-sided p value of a mean difference of zero: the sign of each patient's sum is flipped at random.

    `(1 + hits) / (1 + draws)`, so it is never zero (Phipson and Smyth 2010). None with fewer than two patients.
    """
    differences, patients = np.asarray(differences, dtype=np.float64), np.asarray(patients)
    known = np.isfinite(differences)
    _, owner = np.unique(patients[known], return_inverse=True)
    sums = np.bincount(owner, weights=differences[known]) if known.any() else np.zeros(0)
    if len(sums) < 2:
        return None
    flips = np.random.default_rng(seed).choice(np.array([-1.0, 1.0]), size=(draws, len(sums)))
    hits = np.count_nonzero(np.abs(flips @ sums) >= abs(sums.sum()) * (1.0 - 1e-12))
    return float((1.0 + hits) / (1.0 + draws))


def holm(p_values: dict[str, float | None]) -> dict[str, float | None]:
    """Holm's step-down adjustment of several p values; None stays None and is not counted."""
    known = sorted((p, name) for name, p in p_values.items() if p is not None)
    adjusted: dict[str, float | None] = dict.fromkeys(p_values)
    largest = 0.0
    for rank, (p, name) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        adjusted[name] = largest
    return adjusted


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
