"""The default X-ray encoder: small, convolutional, trained together with the denoiser."""

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor, nn

from dataset.imaging.unknown_pixels import split_unknown
from ddpm.xray_encoder.base import XrayEncoder, XrayFeatures, resize

MEAN, STD = 0.5, 0.25  # of X-rays after the 0.5 to 99.5 percentile scaling, approximately


class CNNXrayEncoder(XrayEncoder):
    """Pixel unshuffle by 4, an hourglass for context, and a feature map at an eighth of the image.

    Args:
        width: channels at a quarter of the image; doubled once below.
        blocks: residual blocks per resolution.
        stride: of the feature map: 4 or 8.
        image_size: X-rays are first resized to `(image_size, image_size)`; None keeps their size.
        mask: whether the encoder also reads where the X-ray is unknown; without it, unknown pixels count as 0.
    """

    @register_to_config
    def __init__(
        self,
        width: int = 64,
        blocks: int = 2,
        stride: int = 8,
        feature_channels: int = 128,
        embedding_dim: int = 512,
        image_size: int | None = None,
        mask: bool = False,
    ):
        super().__init__()
        if stride not in (4, 8):
            raise ValueError(f"stride={stride}: choose 4 or 8")
        self.embedding_dim, self.feature_channels = embedding_dim, feature_channels
        widths = [width, 2 * width, 2 * width, 2 * width]
        pairs = list(zip(widths[:-1], widths[1:], strict=True))
        self.stem = nn.Conv2d(16, width, 3, padding=1)
        self.down = nn.ModuleList(_stage(w, blocks) for w in widths)
        self.halve = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairs)
        self.finest = 0 if stride == 4 else 1  # level of the feature map
        self.up = nn.ModuleList(_stage(w, blocks) for w in widths[self.finest : -1])
        self.merge = nn.ModuleList(nn.Conv2d(a + b, a, 1) for a, b in pairs[self.finest :])
        self.to_maps = nn.Conv2d(widths[self.finest], feature_channels, 1)
        self.to_embedding = embedding_head(widths[-1], embedding_dim)
        with torch.random.fork_rng(devices=[]):  # further input channels of the stem, whose mask changes no weights
            self.mask_stem = nn.Conv2d(16, width, 3, padding=1, bias=False) if mask else None
        if mask:
            nn.init.zeros_(self.mask_stem.weight)

    def forward(self, xray: Float[Tensor, "b v 1 h w"]) -> XrayFeatures:
        """Features of each view, NaN where it is unknown; a `ValueError` unless the sides are multiples of 32."""
        b, v = xray.shape[:2]
        image, known = split_unknown(xray.flatten(0, 1))
        unknown = (~known).to(image.dtype)
        if self.config.image_size is not None:
            image, unknown = (resize(part, self.config.image_size) for part in (image, unknown))
        if any(side % 32 for side in image.shape[-2:]):
            raise ValueError(f"X-ray of {tuple(image.shape[-2:])} pixels: sides must be multiples of 32")
        x = F.pixel_unshuffle((image - MEAN) / STD, 4)
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        if self.mask_stem is not None:
            x = x + self.mask_stem(F.pixel_unshuffle(unknown, 4).contiguous(memory_format=torch.channels_last))
        levels = []
        for i, stage in enumerate(self.down):
            x = stage(x)
            levels.append(x)
            if i < len(self.halve):
                x = self.halve[i](x)
        embedding = self.to_embedding(x.mean(dim=(2, 3)))
        for i in reversed(range(len(self.up))):
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = self.up[i](self.merge[i](torch.cat([levels[i + self.finest], x], dim=1)))
        maps = self.to_maps(x)
        return XrayFeatures(embedding.unflatten(0, (b, v)), maps.unflatten(0, (b, v)))


class ResidualBlock(nn.Module):
    """Two convolutions of the class `conv`, the second one starting at zero."""

    def __init__(self, width: int, conv: type[nn.Module] = nn.Conv2d):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, width), nn.GroupNorm(8, width)
        self.conv1, self.conv2 = conv(width, width, 3, padding=1), conv(width, width, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as `x`."""
        return x + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))


def embedding_head(width: int, embedding_dim: int) -> nn.Sequential:
    """Pooled features `(n, width)` to the global embedding."""
    return nn.Sequential(nn.Linear(width, embedding_dim), nn.SiLU(), nn.Linear(embedding_dim, embedding_dim))


def _stage(width: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))
