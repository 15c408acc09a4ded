"""What only the VQ-GAN stage needs."""
