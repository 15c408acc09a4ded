"""Latents of a 2D SDXL VAE, slice by slice along D with bounded memory."""

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ddpm.latent.base import LatentEncoder

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, AutoencoderTiny

VAE_CLASSES = ("AutoencoderKL", "AutoencoderTiny")  # of diffusers


def vae_type(name: str) -> type:
    """A class of `VAE_CLASSES`."""
    import diffusers  # late: with its VAEs diffusers imports all of its models, which other generators do not need

    return getattr(diffusers, name)


class SliceVAELatents(LatentEncoder):
    """A frozen 2D autoencoder of diffusers; latents `(b, c, D, H/8, W/8)`.

    The input is grey in three equal channels, the output their mean. Scaling and shift come from the VAE's config.

    Args:
        vae_class: `AutoencoderKL` or `AutoencoderTiny`.
        vae: its constructor arguments.
        source: hub id or path, for the record.
        slices_per_batch: axial slices encoded or decoded at once, which limits the memory. The backward pass of the
            decoder recomputes the slices.
    """

    slicewise = True

    @register_to_config
    def __init__(self, vae_class: str, vae: dict, source: str = "", slices_per_batch: int = 8):
        super().__init__()
        if vae_class not in VAE_CLASSES:
            raise ValueError(f"vae_class={vae_class}: choose one of {', '.join(VAE_CLASSES)}")
        if slices_per_batch < 1:
            raise ValueError(f"model.latent.slices_per_batch={slices_per_batch}: give 1 or more")
        self.network = vae_type(vae_class)(**vae)
        self._make_statistics(self.network.config.latent_channels)
        self.eval().requires_grad_(False)

    @classmethod
    def from_vae(cls, vae: "AutoencoderKL | AutoencoderTiny", source: str, slices_per_batch: int = 8):
        """The encoder of a loaded VAE, in float32: the SDXL VAE overflows in float16."""
        known = inspect.signature(type(vae).__init__).parameters  # AutoencoderTiny registers more than it takes
        config = {k: v for k, v in dict(vae.config).items() if k in known}
        encoder = cls(type(vae).__name__, config, source, slices_per_batch)
        encoder.network.load_state_dict(vae.float().state_dict())
        return encoder

    def encode_raw(self, volume: Float[Tensor, "b 1 D H W"]) -> Float[Tensor, "b c d h w"]:
        """Posterior means with the scale and shift of the VAE's config."""
        b, _, _, height, width = volume.shape
        if height % self._factor or width % self._factor:
            raise ValueError(f"slices of {height}×{width}: the sides must be multiples of {self._factor}")
        slices = volume.movedim(2, 1).flatten(0, 1).expand(-1, 3, -1, -1)
        latents = self._in_chunks(self._encode_slices, slices)
        return latents.unflatten(0, (b, -1)).movedim(1, 2)

    def decode_raw(self, raw: Float[Tensor, "b c d h w"]) -> Float[Tensor, "b 1 D H W"]:
        """Decodes slice by slice and averages the three channels."""
        images = self._in_chunks(self._decode_slices, raw.movedim(2, 1).flatten(0, 1))
        return images.mean(dim=1, keepdim=True).unflatten(0, (len(raw), -1)).movedim(1, 2)

    def _in_chunks(self, function: Callable[[Tensor], Tensor], slices: Tensor) -> Tensor:
        chunks = slices.split(self.config.slices_per_batch)
        if torch.is_grad_enabled() and slices.requires_grad:
            return torch.cat([checkpoint(function, c, use_reentrant=False, preserve_rng_state=False) for c in chunks])
        return torch.cat([function(chunk) for chunk in chunks])

    def _encode_slices(self, images: Tensor) -> Tensor:
        encoded = self.network.encode(images)
        latents = encoded.latents if type(self.network).__name__ == "AutoencoderTiny" else encoded.latent_dist.mode()
        return (latents - self._shift) * self._scale

    def _decode_slices(self, latents: Tensor) -> Tensor:
        return self.network.decode(latents / self._scale + self._shift).sample

    @property
    def _factor(self) -> int:
        config = self.network.config
        tiny = type(self.network).__name__ == "AutoencoderTiny"
        return 2 ** (len(config.encoder_block_out_channels if tiny else config.block_out_channels) - 1)

    @property
    def _scale(self) -> float:
        return float(self.network.config.scaling_factor or 1.0)

    @property
    def _shift(self) -> float:
        return float(getattr(self.network.config, "shift_factor", None) or 0.0)
