"""Latent diffusion of CT volumes from X-rays: denoiser, conditioning, objective, training module, pipeline."""
