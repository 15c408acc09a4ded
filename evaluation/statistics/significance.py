"""Sign-flip test of paired differences and Holm adjustment."""

import numpy as np
from jaxtyping import Float, Shaped


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
