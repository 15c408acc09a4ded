"""Grey scale and pose of a film, which are unknown, from a volume that was predicted for it.

A film shows `gain y^gamma + offset` of the pixels y of a training X-ray from a displaced source. The Levenberg-
Marquardt method (Marquardt 1963) finds the maximum of their posterior given a volume: the difference of line integrals
has the covariance of `ddpm.consistency.projection_nuisance`, larger by the chi² that the volume leaves, and the
parameters a Gaussian of mean 0 and half their limits as standard deviation. Pixels that the film does not measure are
NaN and have no weight.
"""

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from dataset.imaging.geometry import camera_axes
from ddpm.consistency.films.ray_projector import RayProjector
from ddpm.consistency.projection_nuisance import MeasuredXray, ProjectionNuisance

# logarithm, share of the grey range, logarithm, degrees, degrees, mm of the patient in the plane of the image
NAMES = ("gain", "offset", "gamma", "azimuth", "elevation", "down", "across")
LIMITS = (math.log(2.5), 0.75, math.log(1.4), 5.0, 5.0, 15.0, 15.0)  # a film without open air has more contrast
GREY = 3  # so many of them concern grey values
PRIOR = 0.5  # standard deviation, share of the limits
AT_BOUND = 0.999  # share of a limit
ROUNDS = 4
LEAST = 1e-3  # grey value of a training X-ray, above 0 for its power
DAMPING, HARDER, EASIER = 1e-3, 10.0, 0.2


class FilmCalibration(NamedTuple):
    """Parameters of each view as shares of `LIMITS`, in [-1, 1]; 0 is a training X-ray at the pose given."""

    shares: Float[Tensor, "v 7"]

    def values(self) -> dict[str, Float[Tensor, " v"]]:
        """Gain, offset, gamma, degrees and mm by name."""
        found = dict(zip(NAMES, (self.shares * self.shares.new_tensor(LIMITS)).T, strict=True))
        return found | {name: found[name].exp() for name in ("gain", "gamma")}

    def at_bound(self) -> list[str]:
        """Names of the parameters that end at a limit in some view."""
        reached = (self.shares.abs() > AT_BOUND).any(dim=0).tolist()
        return [name for name, there in zip(NAMES, reached, strict=True) if there]

    def xray(self, film: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
        """The film in the grey scale of training X-rays, view after view."""
        found, pixels = self.values(), film.view(len(self.shares), -1)
        grey = (pixels - found["offset"][:, None]) / found["gain"][:, None]
        return (grey.clamp_min(LEAST) ** (1.0 / found["gamma"][:, None])).flatten()

    def poses(self, poses: Float[Tensor, "v 9"]) -> Float[Tensor, "v 9"]:
        """The poses, turned and shifted."""
        moves = self.shares[:, GREY:] * self.shares.new_tensor(LIMITS[GREY:])
        return poses + torch.einsum("vk,vkp->vp", moves, _moves(poses))


def calibrate_film(
    nuisance: ProjectionNuisance,
    film: Float[Tensor, " p"],
    volume: Float[Tensor, " voxels"],
    rays: RayProjector,
    level: float,
    rounds: int = ROUNDS,
) -> FilmCalibration:
    """The calibration of a film, NaN where unknown, by a volume of attenuation coefficients on the grid of `rays`.

    `rays` has the poses from which the displacements count, `level` is chi² of true volumes (`ProjectionConsistency`).
    """
    fixed, views = nuisance.of(film, grey=False), len(rays.poses)
    shares, damping = film.new_zeros(views, len(LIMITS)), DAMPING

    def difference(shares: Tensor) -> Tensor:
        found = FilmCalibration(shares)
        placed = replace(rays, poses=found.poses(rays.poses))
        return nuisance.integrals(found.xray(film)) - fixed.known * placed.project(volume[None])[0]

    rest = difference(shares)
    for _ in range(rounds):
        scale = level / max(level, float(fixed.chi2(rest[None])))
        columns = _jacobian(nuisance, film, volume, rays, shares, fixed).T
        weighted = scale * fixed.precision(columns)
        curvature = weighted @ columns.T + torch.eye(len(columns)).to(columns) / PRIOR**2
        slope = weighted @ rest + shares.flatten() / PRIOR**2
        curvature += damping * torch.diag(curvature.diagonal())
        step = torch.linalg.solve(curvature, slope).view_as(shares)
        tried = (shares - step).clamp(-1.0, 1.0)
        tried_rest = difference(tried)
        if _cost(fixed, tried_rest, tried, scale) < _cost(fixed, rest, shares, scale):
            shares, rest, damping = tried, tried_rest, damping * EASIER
        else:
            damping *= HARDER
    return FilmCalibration(shares)


def _cost(fixed: MeasuredXray, rest: Tensor, shares: Tensor, scale: float) -> float:
    squares = (rest[None] * fixed.precision(rest[None])).sum()
    return float(scale * squares + (shares / PRIOR).square().sum())


def _jacobian(
    nuisance: ProjectionNuisance,
    film: Tensor,
    volume: Tensor,
    rays: RayProjector,
    shares: Tensor,
    fixed: MeasuredXray,
) -> Float[Tensor, "p n"]:
    """Derivatives of the difference of line integrals with all shares of all views."""
    filled = torch.where(fixed.known, film, 0.5)

    def shown(grey: Float[Tensor, "v 3"]) -> Float[Tensor, " p"]:
        return nuisance.integrals(FilmCalibration(torch.cat([grey, shares[:, GREY:]], dim=1)).xray(filled))

    grey = torch.func.jacfwd(shown)(shares[:, :GREY])
    placed = replace(rays, poses=FilmCalibration(shares).poses(rays.poses))
    directions = _moves(rays.poses) * shares.new_tensor(LIMITS[GREY:])[None, :, None]
    turns = [placed.pose_jacobian(volume, view, directions[view]) for view in range(len(shares))]
    moved = -torch.block_diag(*turns).unflatten(1, (len(shares), -1))
    return torch.cat([grey, moved], dim=2).flatten(1) * fixed.known[:, None]


def _moves(poses: Float[Tensor, "v 9"]) -> Float[Tensor, "v 4 9"]:
    """Changes of the fields of poses with a degree of azimuth and of elevation, and with a mm down and across."""
    _, column, row = camera_axes(poses)
    moves = poses.new_zeros(len(poses), 4, 9)
    moves[:, 0, 2] = moves[:, 1, 3] = 1.0
    moves[:, 2, 4:7], moves[:, 3, 4:7] = row, column
    return moves
