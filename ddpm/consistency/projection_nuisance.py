"""What separates the projection of true latents from their X-ray: a Gaussian, learned from training cases.

An X-ray x of `scale_xray` is an affine function of line integrals L, so `gain x + offset - m = L + e`: m is the mean
and e the rest of what the light decoder, contrast medium, grid and noise add, with the covariance W Wᵀ + D of factor
analysis. Gain and offset have a Gaussian of their own and are integrated out: they add the columns `[x, 1] S` to W.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

ROUNDS = 3  # of the fit of gain and offset in turn with m
POOLED = 0.3  # share of the mean variance of all pixels in D, which few cases determine


class ProjectionNuisance(nn.Module):
    """Mean and covariance of the nuisance of X-rays of `views` × `pixels`², and of their gain and offset.

    Args:
        rank: columns of W.
    """

    def __init__(self, views: int, pixels: int, rank: int):
        super().__init__()
        length = views * pixels**2
        self.views = views
        self.register_buffer("mean", torch.zeros(length))
        self.register_buffer("loadings", torch.zeros(length, rank))
        self.register_buffer("deviation", torch.ones(length))  # square root of D
        self.register_buffer("grey_mean", torch.zeros(2 * views))  # gains, then offsets
        self.register_buffer("grey_factor", torch.zeros(2 * views, 2 * views))

    @torch.no_grad()
    def fit(self, xrays: Float[Tensor, "n p"], integrals: Float[Tensor, "n p"]) -> "ProjectionNuisance":
        """Fits to X-rays, NaN where unknown, and the line integrals of their true latents."""
        n, known = len(xrays), ~xrays.isnan()
        values, columns = torch.where(known, xrays, 0.0), [self._columns(x) for x in xrays]
        count, mean = known.sum(dim=0).clamp_min(1), torch.zeros_like(integrals[0])
        for _ in range(ROUNDS):
            wanted = torch.where(known, integrals + mean, 0.0)
            pairs = zip(columns, wanted, strict=True)
            grey = torch.stack([torch.linalg.lstsq(c, w[:, None]).solution[:, 0] for c, w in pairs])
            shown = torch.stack([c @ g for c, g in zip(columns, grey, strict=True)])
            rest = torch.where(known, shown - integrals, 0.0)
            mean = rest.sum(dim=0) / count
        centred = torch.where(known, rest - mean, 0.0)
        left, values, right = torch.linalg.svd(centred, full_matrices=False)
        k = max(0, min(self.loadings.shape[1], n - 3))
        remainder = (centred - (left[:, :k] * values[:k]) @ right[:k]).square().sum(dim=0)
        variance = remainder / (count - 1 - k).clamp_min(1)
        variance = (1.0 - POOLED) * variance + POOLED * variance.mean()
        self.mean.copy_(mean)
        self.loadings.zero_()[:, :k].copy_(right[:k].T * values[:k] / max(1, n - 1) ** 0.5)
        self.deviation.copy_(variance.sqrt().clamp_min(1e-4))
        self.grey_mean.copy_(grey.mean(dim=0))
        spread = torch.cov(grey.T) + 1e-8 * torch.eye(grey.shape[1])
        self.grey_factor.copy_(torch.linalg.cholesky(spread))
        return self

    def of(self, xray: Float[Tensor, " p"], grey: bool = True) -> "MeasuredXray":
        """The nuisance of one X-ray, NaN where unknown; without `grey` gain and offset are exactly their means."""
        known, columns = ~xray.isnan(), self._columns(xray)
        parts = [self.loadings, columns @ self.grey_factor] if grey else [self.loadings]
        factors = torch.cat(parts, dim=1) * known[:, None]
        weighted = factors / self.deviation.square()[:, None]
        inner = torch.linalg.inv(torch.eye(factors.shape[1]).to(factors) + factors.T @ weighted)
        return MeasuredXray(self.integrals(xray), known, self.deviation.square(), factors, weighted, inner)

    def integrals(self, xray: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
        """Line integrals that an X-ray of the mean grey scale measures; 0 where it is unknown."""
        return torch.where(~xray.isnan(), self._columns(xray) @ self.grey_mean - self.mean, 0.0)

    def _columns(self, xray: Float[Tensor, " p"]) -> Float[Tensor, "p m"]:
        """Pixels and ones of each view, which gains and offsets multiply; 0 where unknown."""
        known = ~xray.isnan()
        views = torch.block_diag(*torch.ones(self.views, len(xray) // self.views, 1)).to(xray)
        return torch.cat([views * torch.where(known, xray, 0.0)[:, None], views * known[:, None]], dim=1)


class MeasuredXray(NamedTuple):
    """Line integrals `target` that an X-ray measures, and the covariance Σ of its nuisance; 0 at unknown pixels."""

    target: Float[Tensor, " p"]
    known: Bool[Tensor, " p"]
    variance: Float[Tensor, " p"]
    factors: Float[Tensor, "p k"]
    weighted: Float[Tensor, "p k"]
    inner: Float[Tensor, "k k"]

    def residual(self, integrals: Float[Tensor, "b p"]) -> Float[Tensor, "b p"]:
        """Measured minus given line integrals where they are known."""
        return torch.where(self.known, self.target - integrals, 0.0)

    def covariance(self, images: Float[Tensor, "b p"]) -> Float[Tensor, "b p"]:
        """Σ images."""
        return images * self.variance * self.known + (images @ self.factors) @ self.factors.T

    def precision(self, images: Float[Tensor, "b p"]) -> Float[Tensor, "b p"]:
        """Σ⁻¹ images, by the identity of Woodbury."""
        scaled = images / self.variance * self.known
        return scaled - ((images @ self.weighted) @ self.inner) @ self.weighted.T

    def chi2(self, residual: Float[Tensor, "b p"]) -> Float[Tensor, " b"]:
        """rᵀ Σ⁻¹ r per known pixel: about 1 for true latents."""
        return (residual * self.precision(residual)).sum(dim=1) / self.known.sum().clamp_min(1)
