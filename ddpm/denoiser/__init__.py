"""The 3D U-Net that denoises latents."""
