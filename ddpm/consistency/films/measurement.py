"""A film to which latents are compared and updated, each sample with the grey scale and pose that fit it best."""

from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ddpm.consistency.films.calibration import FilmCalibration, calibrate_film
from ddpm.consistency.films.ray_projector import RayProjector
from ddpm.consistency.projection_consistency import Measurement, ProjectionConsistency
from ddpm.consistency.proximal_update import Update


class FilmMeasurement(NamedTuple):
    """As `Measurement`, for an X-ray of unknown pose.

    Every call starts at the poses of `rays`, so a sample depends neither on others nor on earlier calls.
    """

    model: ProjectionConsistency
    film: Float[Tensor, " p"]  # NaN where unknown
    rays: RayProjector  # at the poses of the pose regressor, or the nominal ones

    @classmethod
    def of(
        cls,
        model: ProjectionConsistency,
        film: Float[Tensor, "v 1 h w"],
        poses: Float[Tensor, "v 9"],
        extent: Float[Tensor, "3"],
    ) -> "FilmMeasurement":
        """The film of a volume of `extent` mm with poses to start at."""
        pixels = model.pixels(film)
        rays = RayProjector(model.grid, tuple(extent.tolist()), poses.to(pixels), model.config.pixels)
        return cls(model, pixels, rays)

    def calibration(self, clean: Float[Tensor, "1 c d h w"]) -> FilmCalibration:
        """Grey scale and displacement of the film by one sample of the latents."""
        volume = self.model.decoder(clean).flatten()
        return calibrate_film(self.model.nuisance, self.film, volume, self.rays, float(self.model.level))

    def at(self, found: FilmCalibration) -> Measurement:
        """The film with a grey scale and pose."""
        rays = replace(self.rays, poses=found.poses(self.rays.poses))
        return Measurement(self.model, self.model.nuisance.of(found.xray(self.film)), rays)

    def update(self, clean: Float[Tensor, "b c d h w"], signal: float, noise: float) -> Update:
        """The change of clean latents that were predicted at a noise level."""
        found = [self.at(self.calibration(one[None])).update(one[None], signal, noise) for one in clean]
        return Update(*(torch.cat(parts) for parts in zip(*found, strict=True)))
