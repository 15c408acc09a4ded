"""Latent encoders of CT: the 3D VQ-GAN, 2D VAEs of the SDXL family, and MAISI's 3D VAE."""

from ddpm.latent.base import LatentEncoder
from ddpm.latent.maisi import MaisiLatents
from ddpm.latent.slice_vae import SliceVAELatents
from ddpm.latent.vqgan import VQGANLatents

__all__ = ["LatentEncoder", "MaisiLatents", "SliceVAELatents", "VQGANLatents"]
