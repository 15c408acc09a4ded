"""Ridge regression in closed form, with the penalty chosen by leaving patients out."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

PENALTIES = tuple(10.0 ** (k / 2) for k in range(-6, 7))  # in units of the mean eigenvalue of the features


def ridge(
    z: Float[Tensor, "n f"], targets: Float[Tensor, "n o"], fold: Int[Tensor, " n"]
) -> tuple[Float[Tensor, "k f o"], Float[Tensor, "k o"], Float[Tensor, "n o"]]:
    """Weights and intercepts without each fold and, last, with all; and what the first say of the cases of their fold.

    Each target has the penalty with the smallest error on cases left out.
    """
    folds = range(int(fold.max()) + 1)
    centres, solved = [], []  # of each regression: means, then eigenvalues, eigenvectors and rotated right-hand side
    for inside in [*(fold != k for k in folds), fold >= 0]:
        centres.append((z[inside].mean(dim=0), targets[inside].mean(dim=0)))
        x, y = z[inside] - centres[-1][0], targets[inside] - centres[-1][1]
        values, vectors = torch.linalg.eigh(x.T @ x)
        solved.append((values.clamp_min(0.0), vectors, vectors.T @ (x.T @ y)))
    scale = z.square().sum() / z.shape[1]
    best = torch.full((targets.shape[1],), float("inf"), dtype=z.dtype)
    weights = torch.zeros(len(solved), z.shape[1], targets.shape[1], dtype=z.dtype)
    intercepts, unseen = torch.zeros_like(weights[:, 0]), torch.zeros_like(targets)
    for penalty in PENALTIES:
        tried = torch.stack([vec @ (right / (val + penalty * scale)[:, None]) for val, vec, right in solved])
        level = torch.stack([to - at @ slope for (at, to), slope in zip(centres, tried, strict=True)])
        said = torch.zeros_like(targets)
        for k in folds:
            said[fold == k] = z[fold == k] @ tried[k] + level[k]
        error = (targets - said).square().mean(dim=0)
        better = error < best
        best = torch.where(better, error, best)
        weights[..., better], intercepts[..., better], unseen[:, better] = (
            found[..., better] for found in (tried, level, said)
        )
    return weights, intercepts, unseen
