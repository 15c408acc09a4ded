"""Latent encoders of CT: the 3D VQ-GAN and 2D VAEs of the SDXL family."""

from ddpm.latent.base import LatentEncoder
from ddpm.latent.slice_vae import SliceVAELatents
from ddpm.latent.vqgan import VQGANLatents

__all__ = ["LatentEncoder", "SliceVAELatents", "VQGANLatents"]
