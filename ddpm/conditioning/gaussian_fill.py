"""Replaces unknown features by their conditional mean under a Gaussian, given the known ones.

The Gaussian has the covariance W Wᵀ + σ² I of probabilistic principal components (Tipping and Bishop, "Probabilistic
principal component analysis", 1999, eq. 6 and 7). The scores of its components have the mean
(W_kᵀ W_k + σ² I)⁻¹ W_kᵀ z_k given known features z_k (eq. 9), and the features W times that.
"""

import torch
from jaxtyping import Float
from torch import Tensor

# Smallest σ², in units of the variance of a feature. A smaller one trusts a new patient's X-ray to lie among those of
# training: on DRRs of left-out chests, changed like films and with hidden margins, the fill is best with 1, and with
# 0.01 no better than the training mean.
NOISE_FLOOR = 1.0
PART = 64  # rows at once


def fit_loadings(
    values: Float[Tensor, " f"], vectors: Float[Tensor, "f f"], rank: int
) -> tuple[Float[Tensor, "f rank"], Float[Tensor, ""]]:
    """W and σ² from ascending eigenvalues and eigenvectors of the covariance of standardised features."""
    noise = values[: len(values) - rank].mean().nan_to_num().clamp_min(NOISE_FLOOR)
    strongest = values.flip(0)[:rank]
    loadings = vectors.new_zeros(len(vectors), rank)
    loadings[:, : len(strongest)] = vectors.flip(1)[:, :rank] * (strongest - noise).clamp_min(0.0).sqrt()
    return loadings.float(), noise.float()


def conditional_mean(
    z: Float[Tensor, "b f"], loadings: Float[Tensor, "f k"] | None, noise: Float[Tensor, ""] | None
) -> Float[Tensor, "b f"]:
    """Features of mean 0 with their conditional mean in place of NaN; without `loadings` with 0.

    Features without NaN are returned as they are.
    """
    unknown, exporting = z.isnan(), torch.compiler.is_exporting()  # a program has no branch that depends on values
    if not exporting and not unknown.any():
        return z
    known = torch.where(unknown, 0.0, z)
    if loadings is None:
        return known
    if exporting:
        return torch.where(unknown, _mean(known, unknown, loadings, noise), z)
    return torch.cat(
        [
            torch.where(hole, _mean(part, hole, loadings, noise), part)
            for part, hole in zip(known.split(PART), unknown.split(PART), strict=True)
        ]
    )


def _mean(known: Tensor, unknown: Tensor, loadings: Tensor, noise: Tensor) -> Float[Tensor, "b f"]:
    seen = torch.where(unknown[:, :, None], 0.0, loadings)
    precision = seen.mT @ seen + noise * torch.eye(loadings.shape[1], device=loadings.device)
    return torch.linalg.solve(precision, known @ loadings) @ loadings.T


def known_mean_and_std(raw: Float[Tensor, "n p"]) -> tuple[Float[Tensor, " p"], Float[Tensor, " p"]]:
    """Mean and standard deviation of the known values of each pixel; 0 for a pixel that is never known."""
    known = ~raw.isnan()
    if known.all():
        return raw.mean(dim=0), raw.std(dim=0)
    count = known.sum(dim=0)
    mean = torch.where(known, raw, 0.0).sum(dim=0) / count.clamp_min(1)
    squares = torch.where(known, raw - mean, 0.0).square().sum(dim=0)
    return mean, (squares / (count - 1).clamp_min(1)).sqrt()
