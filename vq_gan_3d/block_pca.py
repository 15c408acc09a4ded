"""Principal components of cubic blocks of voxels: the best linear autoencoder of a given latent size.

The autoencoder adds its networks to it, so it starts at the accuracy of the components.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn


class BlockPCA(nn.Module):
    """Volumes `(b, 1, D, H, W)` to `channels` latents a block of `side`³ voxels, and back; in float32.

    Channels are components in falling order of variance, so they are uncorrelated: a Gaussian with a variance for each
    channel, as noise and the linear prior are, then fits them. Latents have a mean of 0 and a mean variance of 1 over
    the blocks of the fit. Before `fit` all latents are 0.
    """

    def __init__(self, channels: int, side: int):
        super().__init__()
        if channels > side**3:
            raise ValueError(f"embedding_dim={channels} is more than the {side}³ voxels of a block")
        self.side = side
        self.register_buffer("mean", torch.zeros(side**3))
        self.register_buffer("basis", torch.zeros(channels, side**3))  # orthonormal rows
        self.register_buffer("scale", torch.ones(()))

    @torch.no_grad()
    def fit(self, volumes: Iterable[tuple[Float[Tensor, "1 D H W"], Bool[Tensor, "1 D H W"]]]) -> None:
        """Fits to the blocks of volumes of which all voxels were scanned; a `ValueError` without any."""
        count, total, squares = 0, 0.0, 0.0
        for volume, scanned in volumes:
            whole = -F.max_pool3d(-scanned[None].float(), self.side) > 0.5
            blocks = self._blocks(volume[None].float()).double()[whole.flatten()]
            count, total, squares = count + len(blocks), total + blocks.sum(dim=0), squares + blocks.T @ blocks
        if count == 0:
            raise ValueError("no block of voxels was scanned as a whole")
        mean = total / count
        variances, components = torch.linalg.eigh(squares / count - mean[:, None] * mean)
        channels = len(self.basis)
        self.mean.copy_(mean)
        self.basis.copy_(components[:, -channels:].T.flip(0))
        self.scale.copy_(variances[-channels:].clamp_min(0.0).mean().sqrt().clamp_min(1e-6))

    def encode(self, volume: Float[Tensor, "b 1 D H W"]) -> Float[Tensor, "b c d h w"]:
        """Latents of volumes with sides that are multiples of `side`."""
        with _float32(volume):
            weight = self.basis / self.scale
            return F.conv3d(volume.float(), self._kernel(weight), -weight @ self.mean, stride=self.side)

    def decode(self, latents: Float[Tensor, "b c d h w"]) -> Float[Tensor, "b 1 D H W"]:
        """The volumes of latents; with `encode` the projection onto the components."""
        with _float32(latents):
            spread = F.conv_transpose3d(latents.float(), self._kernel(self.basis * self.scale), stride=self.side)
            return spread + self.mean.view(1, 1, *[self.side] * 3).repeat(1, 1, *latents.shape[2:])

    def _kernel(self, weight: Float[Tensor, "c p3"]) -> Float[Tensor, "c 1 p p p"]:
        return weight.unflatten(1, (1, *[self.side] * 3))

    def _blocks(self, volume: Float[Tensor, "1 1 D H W"]) -> Float[Tensor, "n p3"]:
        p = self.side
        return rearrange(volume, "1 1 (d p) (h q) (w r) -> (d h w) (p q r)", p=p, q=p, r=p)


def _float32(tensor: Tensor) -> AbstractContextManager:
    """Without autocast, which the meta device does not have."""
    return nullcontext() if tensor.is_meta else torch.autocast(tensor.device.type, enabled=False)
