"""Moves predicted clean latents towards the X-ray that they are sampled for.

The X-ray is predicted from latents by a light decoder and the line integrals of its volume at the pose. At every step
of the sampler a proximal update (`ddpm.consistency.proximal_update`) weighs the difference by the nuisance between
true latents and their X-ray, and the change by the error of the prediction: per voxel with the standard deviation
`u = s noise / sqrt(signal² s² + noise²)` of `ddpm.denoiser.preconditioning`, and with its correlations between the
channels, without which the update goes into latents that no volume has.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor

from dataset.imaging.unknown_pixels import pooled
from ddpm.consistency.films.ray_projector import RayProjector
from ddpm.consistency.light_decoder import LightDecoder
from ddpm.consistency.projection_nuisance import MeasuredXray, ProjectionNuisance
from ddpm.consistency.proximal_update import Update, proximal_update
from ddpm.consistency.ray_matrix import RayMatrix, ray_matrix

ITERATIONS = 3  # of conjugate gradients in a step of the sampler
FOLDS = 8  # of the cross-validation that measures chi² of patients outside the fit
MIN_DEVIATION = 0.02  # of standardised latents
FEWEST = 8  # cases of a fit
LIMIT = 0.99  # quantile of chi² of training cases above which an X-ray does not belong to the latents


class TrainingCase(NamedTuple):
    """What a fit needs of a case."""

    latents: Float[Tensor, "c d h w"]
    predicted: Float[Tensor, "c d h w"]  # by what knows the X-ray but not these latents
    xray: Float[Tensor, "v 1 h w"]
    pose: Float[Tensor, "v 9"]
    extent: Float[Tensor, "3"]
    patient: str = ""


class ProjectionConsistency(ModelMixin, ConfigMixin):
    """The update of one data set and latent encoder.

    Args:
        latent_shape: `(c, d, h, w)`.
        factors: parts of a latent voxel along each axis in the light decoder.
        views: of the X-rays.
        pixels: X-rays are averaged down to `(pixels, pixels)`.
        rank: of the covariance of the nuisance.
        max_side: the deviation of latents is stored on a grid of at most this many voxels per side.
    """

    @register_to_config
    def __init__(
        self,
        latent_shape: tuple[int, ...],
        factors: tuple[int, int, int] = (2, 2, 2),
        views: int = 1,
        pixels: int = 64,
        rank: int = 16,
        max_side: int = 16,
    ):
        super().__init__()
        c, *size = latent_shape
        self.grid = tuple(n * f for n, f in zip(size, factors, strict=True))
        self.decoder = LightDecoder(c, factors)
        self.nuisance = ProjectionNuisance(views, pixels, rank)
        self.register_buffer("deviation", torch.ones(c, *(min(n, max_side) for n in size)))
        self.register_buffer("correlation", torch.eye(c))  # of the errors of the channels
        self.register_buffer("level", torch.ones(()))  # chi² of true latents of patients that are not in the fit
        self.register_buffer("limit", torch.ones(()))  # chi² that few predictions for their own X-ray exceed
        self._matrices: dict[bytes, RayMatrix] = {}

    @torch.no_grad()
    def fit(
        self,
        cases: Sequence[TrainingCase],
        decoded: Iterable[tuple[Float[Tensor, "1 c d h w"], Float[Tensor, "1 x y z"]]],
    ) -> "ProjectionConsistency":
        """Fits the decoder to pairs of latents and attenuation on `grid`, and everything else to training cases.

        ValueError for fewer than `FEWEST` cases, also of the patients outside a fold.
        """
        patients = list(dict.fromkeys(case.patient for case in cases))
        fold = torch.tensor([patients.index(case.patient) % FOLDS for case in cases])
        folds = range(min(FOLDS, len(patients)))
        fewest = min((int((fold != k).sum()) for k in folds), default=0)
        if fewest < FEWEST:
            raise ValueError(
                f"{len(cases)} training cases of {len(patients)} patients: with a patient left out the projection "
                f"consistency needs {FEWEST} of known pose, there are {fewest}; add patients, or morphs of them"
            )
        self.decoder.fit(decoded)
        errors = torch.stack([case.latents.float() - case.predicted.float() for case in cases])
        size = self.deviation.shape[1:]
        deviation = F.adaptive_avg_pool3d(errors.square().mean(dim=0), size).sqrt().clamp_min(MIN_DEVIATION)
        self.deviation.copy_(deviation)
        unit = (errors / self._deviation()).transpose(0, 1).flatten(1)
        self.correlation.copy_(torch.corrcoef(unit))
        xrays = torch.stack([self.pixels(case.xray) for case in cases])
        integrals = [
            torch.stack(
                [self._project(self.decoder(z.float()[None]), case)[0] for z in (case.latents, case.predicted)]
            )
            for case in cases
        ]
        true, predicted = torch.stack(integrals).unbind(1)
        chi2 = []
        for k in folds:
            self.nuisance.fit(xrays[fold != k], true[fold != k])
            for i in torch.nonzero(fold == k)[:, 0].tolist():
                measured = self.nuisance.of(xrays[i])
                chi2.append(torch.cat([measured.chi2(measured.residual(z[i][None])) for z in (true, predicted)]))
        self.level.copy_(torch.stack(chi2)[:, 0].mean())
        self.limit.copy_(torch.stack(chi2)[:, 1].quantile(LIMIT))
        self.nuisance.fit(xrays, true)
        return self

    def measurement(
        self, xray: Float[Tensor, "v 1 h w"], pose: Float[Tensor, "v 9"], extent: Float[Tensor, "3"]
    ) -> "Measurement":
        """The update for one X-ray of known pose, NaN where unknown, of a volume of `extent` mm."""
        return Measurement(self, self.nuisance.of(self.pixels(xray)), self._rays(pose, extent))

    def uncertainty(self, signal: float, noise: float) -> Callable[[Tensor], Tensor]:
        """The covariance of the error of predicted clean latents `(b, c, d, h, w)` at a noise level, as a map."""
        s = self._deviation()
        u = s * noise / (signal**2 * s.square() + noise**2).sqrt()
        return lambda latents: u * torch.einsum("ij,bj...->bi...", self.correlation, u * latents)

    def _deviation(self) -> Float[Tensor, "c d h w"]:
        size = tuple(self.config.latent_shape[1:])
        return F.interpolate(self.deviation[None], size, mode="trilinear", align_corners=False)[0]

    def pixels(self, xray: Float[Tensor, "v 1 h w"]) -> Float[Tensor, " p"]:
        """The pixels of an X-ray to which volumes are compared, NaN where unknown."""
        return pooled(xray.float(), self.config.pixels).flatten()

    def _project(self, attenuation: Float[Tensor, "b x y z"], case: TrainingCase) -> Float[Tensor, "b p"]:
        return self._rays(case.pose, case.extent).project(attenuation.flatten(1))

    def _rays(self, pose: Float[Tensor, "v 9"], extent: Float[Tensor, "3"]) -> RayMatrix:
        """The matrix of a pose; the last one is kept, since DRRs of a data set often share theirs."""
        key = torch.cat([pose.flatten(), extent]).cpu().numpy().tobytes(), str(self.level.device)
        if key not in self._matrices:
            made = ray_matrix(self.grid, tuple(extent.tolist()), pose, self.config.pixels)
            self._matrices = {key: RayMatrix(*(part.to(self.level.device) for part in made))}
        return self._matrices[key]


class Measurement(NamedTuple):
    """One X-ray, to which latents are compared and updated."""

    model: ProjectionConsistency
    measured: MeasuredXray
    rays: RayMatrix | RayProjector

    def residual(self, clean: Float[Tensor, "b c d h w"]) -> Float[Tensor, "b p"]:
        """Measured line integrals minus those of latents."""
        return self.measured.residual(self.rays.project(self.model.decoder(clean).flatten(1)))

    def chi2(self, clean: Float[Tensor, "b c d h w"]) -> Float[Tensor, " b"]:
        """chi² per pixel of latents: about `model.level` for those of the patient of the X-ray."""
        return self.measured.chi2(self.residual(clean))

    def update(self, clean: Float[Tensor, "b c d h w"], signal: float, noise: float) -> Update:
        """The change of clean latents that were predicted at a noise level."""
        jacobian, grid = self.model.decoder.linearised(clean), self.model.grid

        def transpose(images: Float[Tensor, "b p"]) -> Float[Tensor, "b c d h w"]:
            return jacobian.transpose(self.rays.back_project(images).unflatten(1, grid))

        return proximal_update(
            self.measured,
            self.residual(clean),
            lambda change: self.rays.project(jacobian.apply(change).flatten(1)),
            transpose,
            self.model.uncertainty(signal, noise),
            float(self.model.level),
            ITERATIONS,
        )


def light_factors(latent_shape: Sequence[int], volume_size: Sequence[int], pixels: int) -> tuple[int, int, int]:
    """Parts of a latent voxel that divide its voxels evenly, with at most `pixels` along each axis of the volume."""

    def largest(latents: int, voxels: int) -> int:
        ratio = voxels // latents
        return max(f for f in range(1, ratio + 1) if ratio % f == 0 and (f == 1 or f * latents <= pixels))

    return tuple(largest(n, v) for n, v in zip(latent_shape[1:], volume_size, strict=True))


def attenuation_parts(attenuation: Float[Tensor, "b 1 D H W"], grid: tuple[int, int, int]) -> Float[Tensor, "b x y z"]:
    """Mean attenuation on the grid of the light decoder."""
    return F.adaptive_avg_pool3d(attenuation, grid)[:, 0]
