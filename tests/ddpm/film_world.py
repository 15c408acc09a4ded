"""A chest-like volume whose line integrals are known, and a nuisance with the grey scale of its X-rays; no test."""

import torch

from dataset.imaging.drr_options import DrrSettings
from ddpm.consistency.films.calibration import FilmCalibration
from ddpm.consistency.films.ray_projector import RayProjector
from ddpm.consistency.light_decoder import LightDecoder
from ddpm.consistency.projection_consistency import ProjectionConsistency
from ddpm.consistency.projection_nuisance import ProjectionNuisance

EXTENT, SIZE, PIXELS = (320.0, 256.0, 352.0), (16, 16, 16), 32
NOISE = 0.02  # of line integrals


def chest() -> torch.Tensor:
    """Attenuation in 1/mm of a round body with two lungs, a spine and ribs."""
    d, h, w = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in SIZE), indexing="ij")
    mu = 0.019 * torch.sigmoid(12.0 * (0.85 - torch.hypot(h, w)))
    for side in (-0.4, 0.4):
        mu = mu - 0.014 * torch.sigmoid(12.0 * (0.3 - torch.hypot(h, w - side))) * torch.sigmoid(8.0 * (0.7 - d.abs()))
    mu = mu + 0.012 * torch.exp(-(((h + 0.6) ** 2 + w**2) / 0.02)) + 0.003 * torch.cos(9.0 * d) * (mu > 0.01)
    return mu.clamp_min(0.0)


def nuisance(views: int = 1) -> ProjectionNuisance:
    """X-rays x of line integrals 4.5 x - 0.2, with little noise."""
    made = ProjectionNuisance(views, PIXELS, rank=1)
    made.deviation.fill_(NOISE)
    made.grey_mean.copy_(torch.tensor([4.5] * views + [-0.2] * views))
    made.grey_factor.copy_(0.01 * torch.eye(2 * views))
    return made


def rays(views: int = 1) -> RayProjector:
    return RayProjector(SIZE, EXTENT, DrrSettings().poses(EXTENT, views), PIXELS)


def film_of(found: FilmCalibration, gain=1.0, offset=0.0, gamma=1.0, noise=NOISE, seed=0) -> torch.Tensor:
    """A film of the volume with the displacement of `found` and this grey scale."""
    start = rays(len(found.shares))
    there = RayProjector(SIZE, EXTENT, found.poses(start.poses), PIXELS).project(chest().reshape(1, -1))[0]
    there = there + noise * torch.randn(there.shape, generator=torch.Generator().manual_seed(seed))
    return gain * ((there + 0.2) / 4.5).clamp_min(1e-3) ** gamma + offset


def part() -> ProjectionConsistency:
    """Latents are the attenuation, ten thousandths of it a unit."""
    made = ProjectionConsistency((1, *SIZE), (1, 1, 1), pixels=PIXELS, rank=1, max_side=2).eval()
    made.decoder = LightDecoder(1, (1, 1, 1))
    made.decoder.linear[:, 0, 1, 1, 1] = 0.01
    made.nuisance.load_state_dict(nuisance().state_dict())
    made.deviation.fill_(0.3)
    return made
