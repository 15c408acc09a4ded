"""A light decoder of latents to a coarse map of the attenuation coefficient, with its Jacobian and transpose.

The attenuation of each part of a latent voxel is a linear function of the latents of its 3×3×3 neighbourhood plus a
quadratic one of the latents there and of their mean over the neighbourhood. It is fitted to volumes that the latent
encoder decodes, by ridge regression. It replaces the decoder where gradients of many steps are needed.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

RIDGE = 1e-4  # added to the variance of every feature, as a share of it


class LightDecoder(nn.Module):
    """Standardised latents `(b, c, d, h, w)` to attenuation in 1/mm `(b, d·f_d, h·f_h, w·f_w)`.

    Args:
        channels: c.
        factors: f, parts of a latent voxel along each axis.
    """

    def __init__(self, channels: int, factors: tuple[int, int, int]):
        super().__init__()
        self.factors, parts, pairs = tuple(factors), math.prod(factors), channels * (2 * channels + 1)
        self.register_buffer("linear", torch.zeros(parts, channels, 3, 3, 3))
        self.register_buffer("offset", torch.zeros(parts))
        self.register_buffer("quadratic", torch.zeros(parts, pairs))  # of the upper triangle

    def forward(self, latents: Float[Tensor, "b c d h w"]) -> Float[Tensor, "b x y z"]:
        """Attenuation."""
        means = torch.cat([latents, _neighbours(latents)], dim=1)
        curved = torch.einsum("kij,bi...,bj...->bk...", self._matrices(), means, means)
        linear = F.conv3d(latents, self.linear, self.offset, padding=1)
        return _interleaved(linear + curved, self.factors)

    def linearised(self, latents: Float[Tensor, "b c d h w"]) -> "LinearisedDecoder":
        """The Jacobian at these latents."""
        means = torch.cat([latents, _neighbours(latents)], dim=1)
        slopes = 2.0 * torch.einsum("kij,bj...->bki...", self._matrices(), means)
        return LinearisedDecoder(self.linear, slopes, self.factors)

    @torch.no_grad()
    def fit(self, pairs: Iterable[tuple[Float[Tensor, "1 c d h w"], Float[Tensor, "1 x y z"]]]) -> "LightDecoder":
        """Fits to pairs of latents and attenuation; rounds to bfloat16, as exported weights are."""
        gram = products = 0.0
        for latents, attenuation in pairs:
            features = self._features(latents.float()).double()
            gram = gram + features.T @ features
            products = products + features.T @ _parts(attenuation.float(), self.factors)[0].flatten(1).T.double()
        gram = gram + RIDGE * torch.diag(gram.diagonal() + 1e-12)
        weights = torch.linalg.solve(gram, products).T.float().bfloat16().float()
        self.offset.copy_(weights[:, 0])
        self.linear.copy_(weights[:, 1 : 1 + self.linear[0].numel()].reshape(self.linear.shape))
        self.quadratic.copy_(weights[:, 1 + self.linear[0].numel() :])
        return self

    def _features(self, latents: Float[Tensor, "1 c d h w"]) -> Float[Tensor, "n f"]:
        c, *size = latents.shape[1:]
        padded = F.pad(latents[0], (1,) * 6)
        shifts = [(i, j, k) for i in range(3) for j in range(3) for k in range(3)]
        around = [padded[:, i : i + size[0], j : j + size[1], k : k + size[2]] for i, j, k in shifts]
        means = torch.cat([latents, _neighbours(latents)], dim=1)[0]
        rows, columns = torch.triu_indices(2 * c, 2 * c)
        ones = torch.ones(1, *size, dtype=latents.dtype, device=latents.device)
        found = torch.cat([ones, torch.stack(around, dim=1).flatten(0, 1), means[rows] * means[columns]])
        return found.flatten(1).T

    def _matrices(self) -> Float[Tensor, "k i j"]:
        """The quadratic forms as symmetric matrices."""
        side = 2 * self.linear.shape[1]
        rows, columns = torch.triu_indices(side, side)
        upper = self.quadratic.new_zeros(len(self.quadratic), side, side)
        upper[:, rows, columns] = self.quadratic
        return (upper + upper.mT) / 2.0


class LinearisedDecoder(NamedTuple):
    """The Jacobian of a light decoder at some latents."""

    linear: Float[Tensor, "k c 3 3 3"]
    slopes: Float[Tensor, "b k i d h w"]
    factors: tuple[int, int, int]

    def apply(self, change: Float[Tensor, "b c d h w"]) -> Float[Tensor, "b x y z"]:
        """Change of the attenuation with a change of the latents."""
        means = torch.cat([change, _neighbours(change)], dim=1)
        curved = (self.slopes * means[:, None]).sum(dim=2)  # einsum is 8 times as slow
        return _interleaved(F.conv3d(change, self.linear, padding=1) + curved, self.factors)

    def transpose(self, change: Float[Tensor, "b x y z"]) -> Float[Tensor, "b c d h w"]:
        """The transpose of `apply`."""
        parts = _parts(change, self.factors)
        own, around = (self.slopes * parts[:, :, None]).sum(dim=1).chunk(2, dim=1)
        return F.conv_transpose3d(parts, self.linear, padding=1) + own + _neighbours(around)


def _neighbours(latents: Float[Tensor, "b c d h w"]) -> Float[Tensor, "b c d h w"]:
    """Mean over 3×3×3 voxels, of zeros beyond the border: its own transpose."""
    return F.avg_pool3d(F.pad(latents, (1,) * 6), 3, stride=1)  # its own padding refuses 2 voxels


def _interleaved(parts: Float[Tensor, "b k d h w"], factors: tuple[int, int, int]) -> Float[Tensor, "b x y z"]:
    """The parts of each voxel at their places."""
    b, _, d, h, w = parts.shape
    placed = parts.reshape(b, *factors, d, h, w).permute(0, 4, 1, 5, 2, 6, 3)
    return placed.reshape(b, *(n * f for n, f in zip((d, h, w), factors, strict=True)))


def _parts(volume: Float[Tensor, "b x y z"], factors: tuple[int, int, int]) -> Float[Tensor, "b k d h w"]:
    """The inverse of `_interleaved`."""
    d, h, w = (n // f for n, f in zip(volume.shape[1:], factors, strict=True))
    placed = volume.reshape(len(volume), d, factors[0], h, factors[1], w, factors[2])
    return placed.permute(0, 2, 4, 6, 1, 3, 5).reshape(len(volume), -1, d, h, w)
