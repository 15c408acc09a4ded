"""A small 3D encoder of a source volume, for translation from another HU window or modality."""

import math

from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor, nn

from ddpm.denoiser.blocks import Conv3d
from ddpm.xray_encoder.base import XrayEncoder, XrayFeatures
from ddpm.xray_encoder.cnn import ResidualBlock, embedding_head


class VolumeEncoder(XrayEncoder):
    """Strided convolutions on axial slices as one volume, trained together with the denoiser.

    Each map covers a slab of as many slices as the product of the strides along depth. `width` channels follow the
    first of the strides `(depth, height, width)`, twice as many each further one.
    """

    volumetric = True

    @register_to_config
    def __init__(
        self,
        width: int = 32,
        strides: tuple[tuple[int, int, int], ...] = ((1, 4, 4), (2, 2, 2)),
        blocks: int = 2,
        feature_channels: int = 64,
        embedding_dim: int = 256,
    ):
        super().__init__()
        self.embedding_dim, self.feature_channels = embedding_dim, feature_channels
        widths = [width * 2**i for i in range(len(strides))]
        layers: list[nn.Module] = []
        for before, after, stride in zip([1, *widths[:-1]], widths, strides, strict=True):
            layers.append(nn.Conv3d(before, after, tuple(stride), stride=tuple(stride)))
            layers += [ResidualBlock(after, Conv3d) for _ in range(blocks)]
        self.body = nn.Sequential(*layers)
        self.to_maps = nn.Conv3d(widths[-1], feature_channels, 1)
        self.to_embedding = embedding_head(widths[-1], embedding_dim)

    def forward(self, xray: Float[Tensor, "b v 1 h w"]) -> XrayFeatures:
        """Features of slices in [0, 1], inferior to superior; every slab has the embedding of the whole volume."""
        size, folds = (xray.shape[1], *xray.shape[3:]), tuple(map(math.prod, zip(*self.config.strides, strict=True)))
        if any(side % fold for side, fold in zip(size, folds, strict=True)):  # would shift the map
            raise ValueError(f"source volume of {size} voxels: sides must be multiples of {folds}")
        x = self.body(2.0 * xray.movedim(1, 2) - 1.0)
        maps = self.to_maps(x).movedim(2, 1)
        embedding = self.to_embedding(x.mean(dim=(2, 3, 4)))
        return XrayFeatures(embedding[:, None].expand(-1, maps.shape[1], -1), maps)
