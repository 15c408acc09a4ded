"""Latent encoders of CT (3D VQ-GAN, 2D VAEs of the SDXL family, MAISI's 3D VAE) and the detail that they lose."""

from ddpm.latent.base import LatentEncoder
from ddpm.latent.decoder_residual import DecoderResidual
from ddpm.latent.maisi import MaisiLatents
from ddpm.latent.slice_vae import SliceVAELatents
from ddpm.latent.vqgan import VQGANLatents

__all__ = ["DecoderResidual", "LatentEncoder", "MaisiLatents", "SliceVAELatents", "VQGANLatents"]
