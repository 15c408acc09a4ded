"""A small 2D U-Net with the layers, names and weights of MONAI's `UNet` without residual units.

MONAI's top package imports all of MONAI, matplotlib and scikit-learn: seconds before each generation from a film.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


def unet_2d(inputs: int, outputs: int, channels: Sequence[int]) -> nn.Module:
    """Images `(b, inputs, h, w)` to `(b, outputs, h, w)`; each of the `channels` but the last halves both sides.

    Batch norm and PReLU after each convolution but the last. Same layers as
    `monai.networks.nets.UNet(2, inputs, outputs, channels, strides=(2, …), norm="batch")`.
    """
    return nn.Sequential(OrderedDict(model=_level(inputs, outputs, tuple(channels), outermost=True)))


class _Skip(nn.Module):
    """Concatenates the input and the output of the next level."""

    def __init__(self, submodule: nn.Module):
        super().__init__()
        self.submodule = submodule

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        return torch.cat([x, self.submodule(x)], dim=1)


def _level(inputs: int, outputs: int, channels: tuple[int, ...], outermost: bool = False) -> nn.Sequential:
    width, last = channels[0], len(channels) == 2
    inner = _stage(nn.Conv2d(width, channels[1], 3, padding=1)) if last else _level(width, width, channels[1:])
    down = _stage(nn.Conv2d(inputs, width, 3, stride=2, padding=1))
    joined = width + (channels[1] if last else width)
    up = nn.ConvTranspose2d(joined, outputs, 3, stride=2, padding=1, output_padding=1)
    return nn.Sequential(down, _Skip(inner), nn.Sequential(OrderedDict(conv=up)) if outermost else _stage(up))


def _stage(conv: nn.Conv2d | nn.ConvTranspose2d) -> nn.Sequential:
    after = OrderedDict(N=nn.BatchNorm2d(conv.out_channels), A=nn.PReLU())
    return nn.Sequential(OrderedDict(conv=conv, adn=nn.Sequential(after)))
