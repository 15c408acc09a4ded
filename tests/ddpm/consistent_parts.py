"""A planted model of the projection, and a planted guide, for small pipelines; not a test file."""

import torch
from ddpm_parts import EXTENT

from dataset.imaging.geometry import make_pose
from ddpm.consistency.lung_guide import LungGuide, LungUpdate
from ddpm.consistency.projection_consistency import ProjectionConsistency


def planted(latent_shape: tuple[int, ...] = (4, 8, 8, 8), views: int = 1) -> ProjectionConsistency:
    """Attenuation is linear in the first channel; the grey scale is near that of line integrals."""
    part = ProjectionConsistency(latent_shape, (1, 1, 1), views, pixels=8, rank=1, max_side=2).eval()
    part.decoder.linear[:, 0, 1, 1, 1], part.decoder.offset[:] = 0.01, 0.01
    part.nuisance.deviation.fill_(0.05)
    part.nuisance.grey_mean.copy_(torch.tensor([3.0] * views + [1.0] * views))
    part.nuisance.grey_factor.copy_(0.1 * torch.eye(2 * views))
    return part


def towards() -> LungUpdate:
    """More air in the middle of the picture."""
    guide = LungGuide((4, 8, 8, 8)).eval()
    guide.decoder.linear[:, 0, 1, 1, 1], guide.decoder.offset[:] = 0.05, 0.2
    low = torch.full((16, 16), torch.nan)
    low[6:10, 6:10] = 250.0
    return guide.within_bounds(low, low + 5.0, make_pose(EXTENT), EXTENT)
