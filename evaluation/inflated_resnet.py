"""A ResNet-152 inflated to three dimensions, in the layout of the public chest CT weights that it is loaded with."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Bottleneck(nn.Module):
    """1 - 3 - 1 convolutions with a shortcut; the stride is in the middle one."""

    def __init__(self, channels: int, width: int, stride: int = 1, project: bool = False):
        super().__init__()
        self.conv1 = nn.Conv3d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.conv2 = nn.Conv3d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm3d(width)
        self.conv3 = nn.Conv3d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(4 * width)
        self.downsample = None
        if project:
            self.downsample = nn.Sequential(
                nn.Conv3d(channels, 4 * width, 1, stride, bias=False), nn.BatchNorm3d(4 * width)
            )

    def forward(self, x: Tensor) -> Tensor:
        """One block."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out = torch.relu(self.bn1(self.conv1(x)))
        out = torch.relu(self.bn2(self.conv2(out)))
        return torch.relu(self.bn3(self.conv3(out)) + shortcut)


class InflatedResNet152(nn.Module):
    """Feature maps `(b, 2048, z, x, y)` of a volume in [0, 1], a 16th of the depth and a 32nd of the plane."""

    def __init__(self, blocks: tuple[int, ...] = (3, 8, 36, 3)):
        super().__init__()
        self.conv1 = nn.Conv3d(3, 64, (3, 7, 7), (1, 2, 2), padding=(1, 3, 3), bias=False)
        self.bn1 = nn.BatchNorm3d(64)
        self.maxpool = nn.MaxPool3d(3, 2, padding=1)
        channels = 64
        for stage, count in enumerate(blocks):
            width = 64 * 2**stage
            layers = [Bottleneck(channels, width, 1 if stage == 0 else 2, project=True)]
            channels = 4 * width
            layers += [Bottleneck(channels, width) for _ in range(count - 1)]
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.stages = len(blocks)

    def forward(self, x: Float[Tensor, "b 1 z x y"]) -> Float[Tensor, "b f e g h"]:
        """The last stage's maps; one channel is shown to all three."""
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x.expand(-1, 3, -1, -1, -1)))))
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        return x
