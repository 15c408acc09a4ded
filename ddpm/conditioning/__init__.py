"""How an X-ray conditions the denoiser: features lifted along rays, linear prior, pose regressor."""
