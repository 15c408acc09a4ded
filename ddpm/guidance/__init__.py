"""Updates of predicted latents by what a film shows, for checkpoints that need no part for them."""
