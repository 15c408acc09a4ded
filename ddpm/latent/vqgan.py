"""Latents of the 3D VQ-GAN: the vectors before quantisation; decoding quantises them if it has a codebook."""

import itertools

import torch
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor

from ddpm.latent.base import LatentEncoder
from vq_gan_3d import VQGAN3D


class VQGANLatents(LatentEncoder):
    """A frozen VQ-GAN.

    Args:
        vqgan: constructor arguments of `VQGAN3D`.
        tile: side of the tiles in which larger latents are decoded without gradient, to limit the memory.
        halo: latents around a tile that are decoded with it and discarded.
    """

    @register_to_config
    def __init__(self, vqgan: dict, tile: int = 64, halo: int = 8):
        super().__init__()
        self.network = VQGAN3D(**vqgan)
        self._make_statistics(self.network.config.embedding_dim)
        self.eval().requires_grad_(False)

    def latent_shape(self, volume_size: tuple[int, int, int]) -> tuple[int, int, int, int]:
        """`(c, d, h, w)` of the latents of a volume, by its factor: the meta device imports torch's compiler."""
        self.network.check_size(volume_size)
        config = self.network.config
        return (config.embedding_dim, *(side // config.downsample for side in volume_size))

    def encode_raw(self, volume: Float[Tensor, "b 1 D H W"]) -> Float[Tensor, "b c d h w"]:
        """Continuous latents before quantisation."""
        return self.network.encode(volume)

    def decode_raw(self, raw: Float[Tensor, "b c d h w"]) -> Float[Tensor, "b 1 D H W"]:
        """Quantises with a codebook, then decodes; the codebook stays in eval mode, also in a parent that trains."""
        if self.network.codebook is not None:
            self.network.codebook.eval()
        gradient = torch.is_grad_enabled() and raw.requires_grad
        if max(raw.shape[2:]) <= self.config.tile or gradient:
            return self.network.decode(raw)
        return self._decode_tiles(raw)

    @torch.no_grad()
    def preview(self, latents: Float[Tensor, "b c d h w"]) -> Float[Tensor, "b 1 P Q R"]:
        """With a `BlockPCA` its part alone, without the network that refines it: whole, and in a fifth of the time."""
        pca = self.network.pca
        return super().preview(latents) if pca is None else pca.decode(self.unstandardise(latents)).clamp(-1.0, 1.0)

    def _decode_tiles(self, raw: Float[Tensor, "b c d h w"]) -> Float[Tensor, "b 1 D H W"]:
        """Decodes tiles with their halo, then discards the halo.

        Only the group norms, with the statistics of a tile, differ from decoding the whole. Blending of overlapping
        tiles, as in MONAI's inferer, is 5 dB less accurate because of zeros at the borders.
        """
        tile, halo, factor = self.config.tile, self.config.halo, self.network.config.downsample
        volume = raw.new_empty(len(raw), 1, *(side * factor for side in raw.shape[2:]))
        for corner in itertools.product(*(range(0, side, tile) for side in raw.shape[2:])):
            source, inner, target = [], [], []
            for start, side in zip(corner, raw.shape[2:], strict=True):
                first, end = max(0, start - halo), min(side, start + tile)
                source.append(slice(first, min(side, end + halo)))
                inner.append(slice((start - first) * factor, (end - first) * factor))
                target.append(slice(start * factor, end * factor))
            volume[(..., *target)] = self.network.decode(raw[(..., *source)])[(..., *inner)]
        return volume
