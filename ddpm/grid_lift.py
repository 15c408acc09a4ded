"""Features of a source volume brought onto the latent grid: for translations between volumes, where no ray is cast."""

import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor, nn


class GridLift(ModelMixin, ConfigMixin):
    """Maps of axial slabs `(b, v, feature_channels, y, x)` to a volume `(b, channels, d, h, w)`.

    Source and target fill the same box, slabs run inferior to superior and rows anterior to posterior, as in every
    volume here: resampling is all there is to do.
    """

    @register_to_config
    def __init__(self, feature_channels: int = 128, channels: int = 16):
        super().__init__()
        self.mix = nn.Conv3d(feature_channels, channels, 1)

    def forward(
        self,
        maps: Float[Tensor, "b v f y x"],
        pose: Float[Tensor, "b v2 9"],
        extent: Float[Tensor, "b 3"],
        size: tuple[int, int, int],
    ) -> Float[Tensor, "b c d h w"]:
        """Trilinear; `pose` and `extent` are not read, they are there so that every lift is called alike."""
        mixed = self.mix(maps.movedim(1, 2))
        return F.interpolate(mixed.float(), size, mode="trilinear", align_corners=False)
