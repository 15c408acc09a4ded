"""The 3D U-Net of the tests, small, and inputs for it."""

import torch

from ddpm.denoiser.unet import UNet3D


def small(**options) -> UNet3D:
    torch.manual_seed(0)
    condition = {"channels": 3, "embedding_dim": 24}
    net = UNet3D(**{"in_channels": 4, "dim": 16, "head_dim": 8, "condition": condition, **options})
    for name, p in net.named_parameters():  # layers that start at zero hide the layers before them
        if not p.any():
            torch.nn.init.normal_(p, std=0.05, generator=torch.Generator().manual_seed(len(name)))
    return net


def inputs(b: int = 2, size=(6, 8, 8)) -> dict:
    g = torch.Generator().manual_seed(1)
    return {
        "sample": torch.randn(b, 4, *size, generator=g),
        "timestep": torch.tensor([10, 900][:b]),
        "embedding": torch.randn(b, 24, generator=g),
        "features": torch.randn(b, 3, *size, generator=g),
    }
