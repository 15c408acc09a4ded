"""Latents of our 3D VQ-GAN: the vectors before quantisation; decoding quantises them."""

from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor

from ddpm.latent.contract import LatentEncoder
from vq_gan_3d import VQGAN3D


class VQGANLatents(LatentEncoder):
    """A frozen VQ-GAN behind the contract.

    Args:
        vqgan: constructor arguments of `VQGAN3D`.
    """

    @register_to_config
    def __init__(self, vqgan: dict):
        super().__init__()
        self.network = VQGAN3D(**vqgan)
        self._make_statistics(self.network.config.embedding_dim)
        self.eval().requires_grad_(False)

    def encode_raw(self, volume: Float[Tensor, "b 1 D H W"]) -> Float[Tensor, "b c d h w"]:
        """Continuous latents before quantisation."""
        return self.network.encode(volume)

    def decode_raw(self, raw: Float[Tensor, "b c d h w"]) -> Float[Tensor, "b 1 D H W"]:
        """Quantises, then decodes. The codebook must not learn here, whatever mode the parent is in."""
        self.network.codebook.eval()
        return self.network.decode(raw)
