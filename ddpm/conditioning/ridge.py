"""Ridge regression in closed form, with the penalty chosen by cross-validation over patients."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

PENALTIES = tuple(10.0 ** (k / 2) for k in range(-6, 7))  # in units of the mean eigenvalue of the features


class RidgeSystem:
    """`(A + λ·unit·I)⁻¹` for every penalty λ, from one eigendecomposition (Hoerl and Kennard 1970).

    A is `gram`, ZᵀZ or the kernel ZZᵀ in the dual form. The default `unit` is the mean eigenvalue of A.
    """

    def __init__(self, gram: Float[Tensor, "f f"], unit: Tensor | None = None):
        values, self.vectors = torch.linalg.eigh(gram)
        self.unit = values.mean().clamp_min(1e-12) if unit is None else unit
        self.values = values.clamp_min(0.0)

    def inverse_values(self, penalty: float) -> Float[Tensor, " f"]:
        """Eigenvalues of the inverse."""
        return 1.0 / (self.values + penalty * self.unit)

    def solve(self, right: Float[Tensor, "f o"], penalty: float) -> Float[Tensor, "f o"]:
        """`(A + λ·unit·I)⁻¹ right`."""
        return self.vectors @ (self.inverse_values(penalty)[:, None] * (self.vectors.T @ right))


def ridge(
    z: Float[Tensor, "n f"], targets: Float[Tensor, "n o"], fold: Int[Tensor, " n"]
) -> tuple[Float[Tensor, "k f o"], Float[Tensor, "k o"], Float[Tensor, "n o"]]:
    """Weights and intercepts fitted without each fold and, last, on all folds; and out-of-fold predictions.

    Each target has the penalty with the smallest out-of-fold error.
    """
    folds = range(int(fold.max()) + 1)
    scale = z.square().sum() / z.shape[1]
    fits = []  # of each regression: means of features and targets, system, right-hand side
    for inside in [*(fold != k for k in folds), fold >= 0]:
        z_mean, target_mean = z[inside].mean(dim=0), targets[inside].mean(dim=0)
        x, y = z[inside] - z_mean, targets[inside] - target_mean
        fits.append((z_mean, target_mean, RidgeSystem(x.T @ x, scale), x.T @ y))
    best = torch.full((targets.shape[1],), float("inf"), dtype=z.dtype)
    weights = torch.zeros(len(fits), z.shape[1], targets.shape[1], dtype=z.dtype)
    intercepts, out_of_fold = torch.zeros_like(weights[:, 0]), torch.zeros_like(targets)
    for penalty in PENALTIES:
        slopes = torch.stack([system.solve(right, penalty) for _, _, system, right in fits])
        offsets = torch.stack([b - a @ slope for (a, b, _, _), slope in zip(fits, slopes, strict=True)])
        predicted = torch.zeros_like(targets)
        for k in folds:
            predicted[fold == k] = z[fold == k] @ slopes[k] + offsets[k]
        error = (targets - predicted).square().mean(dim=0)
        better = error < best
        best = torch.where(better, error, best)
        weights[..., better], intercepts[..., better], out_of_fold[:, better] = (
            part[..., better] for part in (slopes, offsets, predicted)
        )
    return weights, intercepts, out_of_fold
