"""The VQ-GAN stage: network, losses and module from the config."""
