"""A small linear world of latents and air; not a test file."""

import torch
from torch.nn import functional as F

from dataset.imaging.geometry import make_pose
from ddpm.consistency.lung_guide import LungGuide

SHAPE, EXTENT = (2, 8, 8, 8), (320.0, 256.0, 352.0)
POSE = make_pose(EXTENT)
PIXELS = 16


def planted(deviation: float = 0.3) -> LungGuide:
    """Air of a voxel is 0.2 plus a third of its first channel, in all parts alike; more in one part."""
    guide = LungGuide(SHAPE).eval()
    guide.decoder.linear[:, 0, 1, 1, 1], guide.decoder.offset[:] = 1.0 / 3.0, 0.2
    guide.decoder.linear[0, 1, 1, 1, 2] = 0.05
    guide.deviation.fill_(deviation)
    return guide


def cases(guide: LungGuide, count: int, seed: int = 0):
    """`(latents, predicted, hu)` of the world of a guide, with errors of 0.1 and 0.2 in the two channels."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        latents = 0.4 * torch.rand(SHAPE, generator=generator)
        error = torch.randn(SHAPE, generator=generator) * torch.tensor([0.1, 0.2]).view(2, 1, 1, 1)
        air = F.interpolate(guide.decoder(latents[None])[None], scale_factor=2)[0, 0]
        yield latents, latents + error, -1000.0 * air
