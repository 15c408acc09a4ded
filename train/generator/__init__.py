"""The denoising stage: latents, module, losses, priors, fine-tuning."""
