"""Ridge regression in closed form, with the penalty chosen by cross-validation over patients."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
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


def patient_members(patients: Sequence) -> Int[Tensor, "n m"]:
    """Indices of all cases of each case's patient, padded with -1."""
    cases: dict = {}
    for i, patient in enumerate(patients):
        cases.setdefault(patient, []).append(i)
    longest = max(map(len, cases.values()))
    return torch.tensor([cases[patient] + [-1] * (longest - len(cases[patient])) for patient in patients])


def left_out_residuals(
    residual: Float[Tensor, "n r"],
    rotated: Float[Tensor, "n f"],
    shrunk: Float[Tensor, " f"],
    members: Int[Tensor, "n m"],
) -> Float[Tensor, "n r"]:
    """Residuals of the regression without the case's patient: (I - H)⁻¹ e, H the patient's block of the hat matrix."""
    n = len(residual)
    hat = (rotated.square() @ shrunk + 1.0 / n).clamp_max(1.0 - 1e-9)
    found = residual / (1.0 - hat)[:, None]
    for row in members[(members >= 0).sum(dim=1) > 1].unique(dim=0):
        own = row[row >= 0]
        block = (rotated[own] * shrunk) @ rotated[own].T + 1.0 / n
        eye = torch.eye(len(own), dtype=block.dtype)
        found[own] = torch.linalg.solve((1.0 + 1e-9) * eye - block, residual[own])
    return found


def packed_length(features: int) -> int:
    """Numbers of a `packed_root`."""
    half = (features + 1) // 2
    return half * (2 * half + 1)


def packed_root(system: RidgeSystem, penalty: float) -> tuple[Float[Tensor, " k"], float]:
    """The lower triangular L with L Lᵀ = λ (A + λI)⁻¹ without its zeros, and 1/λ, with λ = `penalty`·unit.

    The leverage zᵀ(A + λI)⁻¹z is |Lᵀz|² / λ (`root_squares`). Entries of L are at most 1 in magnitude, so float16
    holds them. L is cut into four blocks; the lower right one, transposed, fills the zeros of the upper left one.
    """
    shrunk = float(penalty * system.unit)
    inverse = (system.vectors * (shrunk * system.inverse_values(penalty))) @ system.vectors.T
    odd, half = len(inverse) % 2, (len(inverse) + 1) // 2
    root = F.pad(torch.linalg.cholesky((inverse + inverse.T) / 2), (0, odd, 0, odd))
    folded = F.pad(root[:half, :half], (0, 1)) + F.pad(root[half:, half:].T, (1, 0))
    return torch.cat([folded.flatten(), root[half:, :half].flatten()]), 1.0 / shrunk


def root_squares(packed: Float[Tensor, " k"], z: Float[Tensor, "b f"]) -> Float[Tensor, " b"]:
    """|Lᵀz|² with L of `packed_root`, in float32."""
    half = (z.shape[1] + 1) // 2
    upper, lower = z[:, :half], F.pad(z[:, half:], (0, z.shape[1] % 2))
    folded, square = packed.float().split([half * (half + 1), half * half])
    folded = folded.view(half, half + 1)
    first = upper @ folded[:, :half].tril() + lower @ square.view(half, half)
    return first.square().sum(dim=1) + (lower @ folded[:, 1:].triu().T).square().sum(dim=1)


def group_roots(
    rotated: Float[Tensor, "n f"], shrunk: Float[Tensor, " f"], members: Int[Tensor, "n m"]
) -> Float[Tensor, "n m"]:
    """Of each case its row of R with RᵀR = (I - H)⁻¹, H its patient's block of the hat matrix with intercept.

    With the vector g of hat values between an X-ray and the cases of the patient, the regression without the patient
    gives the X-ray a leverage larger by |R g|².

    Args:
        rotated: features along the eigenvectors of the system.
        shrunk: eigenvalues of its inverse.
        members: all cases of each case's patient, padded with -1.
    """
    n = len(rotated)
    roots = torch.zeros(members.shape, dtype=rotated.dtype)
    roots[:, 0] = (1.0 - (rotated.square() @ shrunk + 1.0 / n).clamp_max(1.0 - 1e-9)).rsqrt()
    for row in members[(members >= 0).sum(dim=1) > 1].unique(dim=0):
        own = row[row >= 0]
        values, vectors = torch.linalg.eigh((rotated[own] * shrunk) @ rotated[own].T + 1.0 / n)
        roots[own, : len(own)] = (1.0 - values.clamp_max(1.0 - 1e-9)).rsqrt()[:, None] * vectors.T
    return roots


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
