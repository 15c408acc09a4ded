"""VGG16's features from a local file of torchvision's weights, for the perceptual term."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ddpm.weights.safe_load import read_weights

WIDTHS = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool", 512, 512, 512)
TAPS = (3, 8, 15, 22, 29)  # the last activation before each pooling, as LPIPS reads them
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet in [0, 1]


class VGG16Features(nn.Module):
    """The convolutions of VGG16 (Simonyan and Zisserman 2015), configuration D, as torchvision numbers them."""

    def __init__(self, widths: tuple = WIDTHS):
        super().__init__()
        layers, channels = [], 3
        for width in widths:
            if width == "pool":
                layers.append(nn.MaxPool2d(2, 2))
                continue
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        self.features = nn.Sequential(*layers)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    @classmethod
    def from_file(cls, path: str | Path, widths: tuple = WIDTHS) -> "VGG16Features":
        """With the weights of a `.pth` or `.safetensors` file of torchvision's VGG16; a `ValueError` for another."""
        path = Path(path).expanduser()
        if not path.is_file():
            raise ValueError(f"{path}: no such file; give torchvision's VGG16 weights (vgg16-397923af.pth)")
        try:
            weights = read_weights(path)
            network = cls(widths)
            network.load_state_dict({k: v for k, v in weights.items() if k.startswith("features.")})
        except (ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:120]
            raise ValueError(f"{path}: not torchvision's VGG16 weights (vgg16-397923af.pth): {reason}") from error
        return network

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> list[Tensor]:
        """Five feature maps of images in [-1, 1]."""
        x = ((x + 1.0) / 2.0 - self.mean) / self.std
        maps = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in TAPS:
                maps.append(x)
        return maps
