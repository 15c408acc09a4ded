"""The 3D VQ-GAN: EMA codebook, encoder and decoder, patch discriminator, losses and their LightningModule."""

from vq_gan_3d.autoencoder import VQGAN3D
from vq_gan_3d.codebook import Codebook

__all__ = ["VQGAN3D", "Codebook"]
