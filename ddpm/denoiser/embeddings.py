"""Sinusoidal embeddings of timesteps and positions."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

_FREQUENCIES = (1.0, 2.0, 4.0)
POSITION_CHANNELS = 3 * (1 + 2 * len(_FREQUENCIES))


def positions(size: torch.Size, device: torch.device) -> Float[Tensor, "1 p d h w"]:
    """Coordinates of every voxel in [-1, 1], and their sines and cosines."""
    axes = [(torch.arange(n, device=device, dtype=torch.float32) + 0.5) * (2.0 / n) - 1.0 for n in size]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    waves = [f(math.pi / 2 * frequency * grid) for frequency in _FREQUENCIES for f in (torch.sin, torch.cos)]
    return torch.cat([grid, *waves]).unsqueeze(0)


def sinusoids(timestep: Tensor, dim: int) -> Float[Tensor, "b dim"]:
    """Sinusoidal embedding of the timestep, wavelengths from 2π to 20000π (Vaswani et al., 2017)."""
    half = dim // 2
    rate = torch.exp(-math.log(10000.0) / half * torch.arange(half, device=timestep.device, dtype=torch.float32))
    angle = timestep.float()[:, None] * rate
    return torch.cat([angle.sin(), angle.cos()], dim=-1)
