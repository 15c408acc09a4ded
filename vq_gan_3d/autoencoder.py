"""VQ-GAN encoder and decoder in 3D, with voxels folded into channels before the first convolution.

A convolution at full resolution costs `patch`³ times one after the fold; Shi et al., "Real-Time Single Image
Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural Network" (2016) for the unfold at the end.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vq_gan_3d.block_pca import BlockPCA
from vq_gan_3d.codebook import Codebook


class Reconstruction(NamedTuple):
    """Output of `VQGAN3D.forward`."""

    volume: Float[Tensor, "b 1 D H W"]
    indices: Int[Tensor, "*n"] | None  # of the codes of scanned cells; None without quantisation
    commitment: Float[Tensor, ""]


def fold(volume: Float[Tensor, "b c D H W"], patch: int) -> Tensor:
    """Blocks of `patch`³ voxels into channels."""
    return rearrange(volume, "b c (d p) (h q) (w r) -> b (c p q r) d h w", p=patch, q=patch, r=patch)


def unfold(channels: Tensor, patch: int) -> Tensor:
    """Inverse of `fold`."""
    return rearrange(channels, "b (c p q r) d h w -> b c (d p) (h q) (w r)", p=patch, q=patch, r=patch)


class ResBlock(nn.Module):
    """Two 3×3×3 convolutions with pre-activation group norm around a skip connection."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm1, self.norm2 = _norm(channels), _norm(channels)
        self.conv1 = nn.Conv3d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)  # each block starts as the identity
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Any `(b, channels, d, h, w)`, same shape out."""
        return x + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))


class Layers(nn.Sequential):
    """A sequence whose residual blocks support gradient checkpointing."""

    def __init__(self, *layers: nn.Module):
        super().__init__(*layers)
        self.gradient_checkpointing = False  # diffusers' switch

    def forward(self, x: Tensor) -> Tensor:
        """As `nn.Sequential`."""
        for layer in self:
            recompute = self.gradient_checkpointing and torch.is_grad_enabled() and isinstance(layer, ResBlock)
            x = self._gradient_checkpointing_func(layer, x) if recompute else layer(x)
        return x


class VQGAN3D(ModelMixin, ConfigMixin):
    """CT volume `(b, 1, D, H, W)` in [-1, 1] to latents `(b, embedding_dim, D/downsample, …)` and back.

    Args:
        n_hiddens: channels after the fold; doubled at every further halving.
        downsample: factor along each axis, a power of two.
        patch: factor of the fold, which divides `downsample`.
        n_res_blocks: residual blocks per resolution, on each side.
        quantise: whether latents are quantised before decoding; without, there is no codebook.
        block_pca: whether both networks are added to a `BlockPCA`, which must be fitted before training.
    """

    _supports_gradient_checkpointing = True  # `enable_gradient_checkpointing()`, per residual block

    @register_to_config
    def __init__(
        self,
        n_codes: int = 16384,
        embedding_dim: int = 8,
        n_hiddens: int = 64,
        downsample: int = 4,
        patch: int = 2,
        n_res_blocks: int = 2,
        codebook_decay: float = 0.99,
        restart_below: float = 0.05,
        quantise: bool = True,
        block_pca: bool = False,
    ):
        super().__init__()
        if not isinstance(downsample, int) or downsample < 1 or downsample & (downsample - 1):
            raise ValueError(f"downsample={downsample}: give a power of two, the factor along every axis")
        if downsample % patch:
            raise ValueError(f"patch={patch} does not divide downsample={downsample}")
        halvings = (downsample // patch).bit_length() - 1
        widths = [n_hiddens * 2**i for i in range(halvings + 1)]

        down: list[nn.Module] = [nn.Conv3d(patch**3, widths[0], 3, padding=1)]
        for i, width in enumerate(widths):
            down += [ResBlock(width) for _ in range(n_res_blocks)]
            if i < halvings:
                down.append(nn.Conv3d(width, widths[i + 1], 4, stride=2, padding=1))
        self.encoder = Layers(*down, _norm(widths[-1]), nn.SiLU(), nn.Conv3d(widths[-1], embedding_dim, 1))

        self.codebook = Codebook(n_codes, embedding_dim, codebook_decay, restart_below) if quantise else None

        up: list[nn.Module] = [nn.Conv3d(embedding_dim, widths[-1], 3, padding=1)]
        for i in reversed(range(len(widths))):
            up += [ResBlock(widths[i]) for _ in range(n_res_blocks)]
            if i > 0:
                up.append(nn.ConvTranspose3d(widths[i], widths[i - 1], 4, stride=2, padding=1))
        self.decoder = Layers(*up, _norm(widths[0]), nn.SiLU(), nn.Conv3d(widths[0], patch**3, 3, padding=1))

        self.pca = BlockPCA(embedding_dim, downsample) if block_pca else None
        if block_pca:  # the networks start at 0
            for last in (self.encoder[-1], self.decoder[-1]):
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)

    def encode(self, volume: Float[Tensor, "b 1 D H W"]) -> Float[Tensor, "b c d h w"]:
        """Continuous latents before quantisation."""
        self.check_size(tuple(volume.shape[2:]))
        latents = self.encoder(fold(volume, self.config.patch))
        return latents if self.pca is None else latents + self.pca.encode(volume)

    def check_size(self, size: tuple[int, int, int]) -> None:
        """Raises a `ValueError` for a volume or crop with a side that is not a multiple of `downsample`."""
        if any(side % self.config.downsample for side in size):
            raise ValueError(
                f"volume {tuple(size)}: sides must be multiples of model.downsample={self.config.downsample}"
            )

    def decode(self, latents: Float[Tensor, "b c d h w"], quantise: bool = True) -> Float[Tensor, "b 1 D H W"]:
        """Decodes continuous latents, with a codebook by default after quantising them. The volume is not clipped."""
        if quantise and self.codebook is not None:
            latents = self.codebook(latents).latents
        volume = unfold(self.decoder(latents), self.config.patch)
        return volume if self.pca is None else volume + self.pca.decode(latents)

    def forward(
        self,
        volume: Float[Tensor, "b 1 D H W"],
        scanned: Bool[Tensor, "b 1 D H W"] | None = None,
        quantise: bool = True,
    ) -> Reconstruction:
        """Encodes, quantises and decodes; in training mode the codebook learns from cells with a `scanned` voxel.

        Without a codebook or `quantise` it decodes the continuous latents.
        """
        latents = self.encode(volume)
        if self.codebook is None or not quantise:
            return Reconstruction(self.decode(latents, quantise=False), None, latents.new_zeros(()))
        known = None if scanned is None else F.max_pool3d(scanned.float(), self.config.downsample)[:, 0] > 0
        quantised = self.codebook(latents, known)
        indices = quantised.indices if known is None else quantised.indices[known]
        return Reconstruction(self.decode(quantised.latents, quantise=False), indices, quantised.commitment)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(8, channels // 4) or 1, channels)
