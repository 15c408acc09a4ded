"""The proximal update of latents towards a measurement, in the space of the measurement, with a stop at its noise.

For a residual r of the measurement, its noise Σ, latents with uncertainty C and a linear map J, the minimum of
½ (r - J Δ)ᵀ Σ⁻¹ (r - J Δ) + ½ Δᵀ C⁻¹ Δ is Δ = C Jᵀ (Σ + J C Jᵀ)⁻¹ r (Tarantola, "Inverse problem theory", 2005,
eq. 3.37), found by conjugate gradients preconditioned with Σ⁻¹ (Hestenes and Stiefel 1952). By the discrepancy
principle (Morozov 1966) the update goes only as far along Δ as the residual exceeds what the noise alone leaves.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ddpm.consistency.projection_nuisance import MeasuredXray

Map = Callable[[Tensor], Tensor]


class Update(NamedTuple):
    """A change of latents, and chi² per pixel before and after it."""

    change: Float[Tensor, "b ..."]
    before: Float[Tensor, " b"]
    after: Float[Tensor, " b"]


def proximal_update(
    measured: MeasuredXray,
    residual: Float[Tensor, "b p"],
    forward: Map,
    transpose: Map,
    covariance: Map,
    level: float,
    iterations: int,
    tolerance: float = 1e-3,
) -> Update:
    """The change of latents that brings chi² from above `level` down to it, or as far as the minimum does.

    Args:
        forward, transpose: J and Jᵀ, of latents `(b, …)` and images `(b, p)`.
        covariance: multiplies latents by C.
        iterations: at most so many of conjugate gradients.
        tolerance: of the residual of the linear system, at which they end.
    """
    before = measured.chi2(residual)
    rest, solution = residual, torch.zeros_like(residual)
    direction = scaled = measured.precision(rest)
    first = norm = (rest * scaled).sum(dim=1, keepdim=True)
    for _ in range(iterations):
        image = measured.covariance(direction) + forward(covariance(transpose(direction))) * measured.known
        moving = norm > tolerance**2 * first  # each sample ends by itself, so that its batch does not change it
        step = torch.where(moving, norm / (direction * image).sum(dim=1, keepdim=True).clamp_min(1e-30), 0.0)
        solution, rest = solution + step * direction, rest - step * image
        scaled = measured.precision(rest)
        last, norm = norm, (rest * scaled).sum(dim=1, keepdim=True)
        if not moving.any():
            break
        direction = scaled + norm / last.clamp_min(1e-30) * direction
    change = covariance(transpose(solution))
    share, after = _share(measured, residual, forward(change) * measured.known, before, level)
    return Update(change * share.view(-1, *[1] * (change.dim() - 1)), before, after)


def _share(
    measured: MeasuredXray, residual: Tensor, image: Float[Tensor, "b p"], before: Tensor, level: float
) -> tuple[Tensor, Tensor]:
    """The share t in [0, 1] of a change at which chi² reaches the level first, and that chi²."""
    weighted, count = measured.precision(image), measured.known.sum().clamp_min(1)
    slope, curve = (residual * weighted).sum(dim=1) / count, (image * weighted).sum(dim=1) / count
    excess = (before - level).clamp_min(0.0)  # curve t² - 2 slope t + excess = 0
    root = (slope.square() - curve * excess).clamp_min(0.0).sqrt()
    lowest = slope / curve.clamp_min(1e-30)  # where the level is out of reach
    share = (excess / (slope + root).clamp_min(1e-30)).minimum(lowest).clamp(0.0, 1.0)
    return share, before - 2.0 * share * slope + share.square() * curve
