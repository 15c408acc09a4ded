"""Updates of predicted latents during sampling: towards their X-ray, or towards the lungs of a film."""
