"""Sign-flip test of paired differences and Holm adjustment."""

import numpy as np
from jaxtyping import Float, Shaped
from scipy.stats import permutation_test

ALPHA = 0.05  # level of every verdict


def sign_flip_p(
    differences: Float[np.ndarray, " n"], patients: Shaped[np.ndarray, " n"], draws: int = 20000, seed: int = 0
) -> float | None:
    """Two-sided p value of a mean difference of zero under random signs of each patient's sum.

    Uses all sign patterns if there are at most `draws`, else `draws` random ones with the p value
    `(1 + hits) / (1 + draws)` (Phipson and Smyth 2010). None with fewer than two patients.
    """
    differences, patients = np.asarray(differences, dtype=np.float64), np.asarray(patients)
    known = np.isfinite(differences)
    _, owner = np.unique(patients[known], return_inverse=True)
    sums = np.bincount(owner, weights=differences[known]) if known.any() else np.zeros(0)
    if len(sums) < 2:
        return None
    found = permutation_test(
        (sums,),
        lambda x, axis: np.abs(x.sum(axis=axis)),
        permutation_type="samples",
        alternative="greater",
        vectorized=True,
        n_resamples=draws,
        batch=1000,
        random_state=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def holm(p_values: dict[str, float | None]) -> dict[str, float | None]:
    """Holm's step-down adjustment of p values; None stays None and does not count."""
    known = sorted((p, name) for name, p in p_values.items() if p is not None)
    adjusted: dict[str, float | None] = dict.fromkeys(p_values)
    largest = 0.0
    for rank, (p, name) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        adjusted[name] = largest
    return adjusted
