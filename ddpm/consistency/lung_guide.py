"""Moves predicted clean latents of a film so that the lungs of the volume lie where the film shows them.

A light decoder, fitted to volumes that the latent encoder decodes, gives the share of air in parts of latent voxels.
Its integral along a ray through the body is the depth of lung, for which the film gives bounds
(`dataset.xray.lung_depth`). In the first steps of the sampler a proximal update (`ddpm.consistency.proximal_update`)
moves the latents towards the nearer bound where the depth is beyond it, weighed by the error of the prediction as in
`ddpm.consistency.projection_consistency`. The later steps, which decide density and texture, are left to the network.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from dataset.imaging.lung_segmentation import LUNG_BELOW_HU, open_air
from ddpm.consistency.light_decoder import LightDecoder
from ddpm.consistency.projection_nuisance import MeasuredXray
from ddpm.consistency.proximal_update import Update, proximal_update
from ddpm.consistency.ray_matrix import RayMatrix, ray_matrix

AIR_OF_LUNG = 0.75  # mm of air in 1 mm of lung
NOISE_MM = 15.0  # of air: standard deviation of the bounds
LEAST_NOISE = 0.6  # noise / (signal + noise) below which nothing is updated
DARK = -LUNG_BELOW_HU / 1000.0  # share of air above which a voxel may lie outside the body
ITERATIONS = 3  # of conjugate gradients in a step of the sampler
FACTORS = (2, 2, 2)  # parts of a latent voxel along each axis
MIN_DEVIATION = 1e-3  # of standardised latents
KEPT = 4  # matrices of the rays in memory


class LungGuide(nn.Module):
    """The light decoder from standardised latents to air, and the deviation of predicted from true latents.

    Args:
        latent_shape: `(c, d, h, w)`.
        side: the deviation is stored on a grid of at most this many voxels per side.
    """

    def __init__(self, latent_shape: Sequence[int], side: int = 8):
        super().__init__()
        c, *size = self.latent_shape = tuple(latent_shape)
        self.grid = tuple(n * f for n, f in zip(size, FACTORS, strict=True))
        self.decoder = LightDecoder(c, FACTORS)
        self.register_buffer("deviation", torch.ones(c, *(min(n, side) for n in size)))
        self._rays: dict[tuple, RayMatrix] = {}

    @torch.no_grad()
    def fit(
        self,
        cases: Iterable[tuple[Float[Tensor, "c d h w"], Float[Tensor, "c d h w"], Float[Tensor, "D H W"]]],
    ) -> "LungGuide":
        """Fits to true latents of cases, their prediction from the X-ray alone, and the HU of the decoded latents."""
        squares, pairs = [], []
        for latents, predicted, hu in cases:
            air = (-hu / 1000.0).clamp(0.0, 1.0)[None, None]
            pairs.append((latents[None], F.adaptive_avg_pool3d(air, self.grid)[:, 0]))
            squares.append((latents - predicted).square())
        if not pairs:
            raise ValueError("no cases: the lung guide is fitted to latents of CTs")
        self.decoder.fit(pairs)
        mean = torch.stack(squares).mean(dim=0)
        self.deviation.copy_(F.adaptive_avg_pool3d(mean, self.deviation.shape[1:]).sqrt().clamp_min(MIN_DEVIATION))
        return self

    def within_bounds(
        self,
        low: Float[Tensor, "p p"],
        high: Float[Tensor, "p p"],
        pose: Float[Tensor, "9"],
        extent: Sequence[float],
    ) -> "LungUpdate":
        """The update for a film between these bounds of the depth of lung in mm, NaN where it shows nothing.

        Its rays have this pose in a volume of `extent` mm.
        """
        device = self.deviation.device
        key = (len(low), *pose.tolist(), *extent, device)
        if key not in self._rays:
            while len(self._rays) >= KEPT:
                self._rays.pop(next(iter(self._rays)))
            made = ray_matrix(self.grid, tuple(extent), pose[None], len(low))
            self._rays[key] = RayMatrix(*(part.to(device) for part in made))
        known = ~low.isnan().flatten()
        bounds = [torch.where(known, bound.flatten() * AIR_OF_LUNG, 0.0).to(self.deviation) for bound in (low, high)]
        return LungUpdate(self, *bounds, known.to(device), self._rays[key])

    def uncertainty(self, signal: float, noise: float) -> Float[Tensor, "c d h w"]:
        """Standard deviation of the error of clean latents that were predicted at a noise level."""
        s = F.interpolate(self.deviation[None], self.latent_shape[1:], mode="trilinear", align_corners=False)[0]
        return s * noise / (signal**2 * s.square() + noise**2).sqrt()


class LungUpdate(NamedTuple):
    """Bounds of the air along the rays of one film, in mm; 0 where they are not `known`."""

    guide: LungGuide
    low: Float[Tensor, " p"]
    high: Float[Tensor, " p"]
    known: Bool[Tensor, " p"]
    rays: RayMatrix

    def outside(self, air_mm: Float[Tensor, "b p"]) -> Float[Tensor, "b p"]:
        """The nearer bound minus the air where it is beyond it; 0 elsewhere."""
        return torch.where(self.known, air_mm.clamp(self.low, self.high) - air_mm, 0.0)

    def update(self, clean: Float[Tensor, "b c d h w"], signal: float, noise: float) -> Update:
        """The change of clean latents that were predicted at a noise level; 0 below `LEAST_NOISE`."""
        if noise < LEAST_NOISE * (signal + noise):
            none = clean.new_zeros(len(clean))
            return Update(torch.zeros_like(clean), none, none)
        decoder, grid = self.guide.decoder, self.guide.grid
        air, jacobian = decoder(clean), decoder.linearised(clean)
        body = torch.from_numpy(np.stack([~open_air(one) for one in air.cpu().numpy() > DARK])).to(air)
        variance, none = torch.full_like(self.low, NOISE_MM**2), self.low.new_zeros(len(self.low), 0)
        covariance = self.guide.uncertainty(signal, noise).square()
        return proximal_update(
            MeasuredXray(self.low, self.known, variance, none, none, none[:0]),
            self.outside(self.rays.project((air * body).flatten(1))),
            lambda change: self.rays.project((jacobian.apply(change) * body).flatten(1)),
            lambda images: jacobian.transpose(self.rays.back_project(images).unflatten(1, grid) * body),
            lambda latents: covariance * latents,
            0.0,
            ITERATIONS,
        )
