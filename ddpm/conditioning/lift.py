"""X-ray features lifted along cone-beam rays into the latent grid.

Every latent voxel receives the feature of the detector pixel that its own ray hits. A convolution first spreads the
map over depth bins along the ray, as in "Lift, Splat, Shoot" (arXiv:2008.05711), and the voxel interpolates
them trilinearly. With `depth_bins=1` a feature is constant along its ray.
"""

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dataset.imaging.geometry import camera_axes, project, source_position, voxel_centres
from ddpm.conditioning.views import mean_over_views
from ddpm.xray_encoder.base import XrayEncoder


def ray_coordinates(
    size: tuple[int, int, int], extent: Float[Tensor, "3"], pose: Float[Tensor, "9"]
) -> Float[Tensor, "d h w 3"]:
    """`(column, row, depth)` in [-1, 1] of every voxel of a grid of `size` that fills `extent` mm.

    Depth runs along the central ray from the side of the source (-1) to the side of the detector (1) of the volume.
    """
    points = voxel_centres(size, (1.0, 1.0, 1.0), device=pose.device) * extent
    beam, _, _ = camera_axes(pose)
    half_range = (beam.abs() * extent).sum() / 2.0
    depth = ((points - source_position(pose)) @ beam - pose[1]) / half_range
    return torch.cat([project(points, pose), depth.unsqueeze(-1)], dim=-1)


class RayLift(ModelMixin, ConfigMixin):
    """Feature maps `(b, v, feature_channels, y, x)` to a volume `(b, channels, d, h, w)`, the mean over the views."""

    @register_to_config
    def __init__(self, feature_channels: int = 128, channels: int = 16, depth_bins: int = 16):
        super().__init__()
        self.spread = nn.Conv2d(feature_channels, channels * depth_bins, 1)

    def forward(
        self,
        maps: Float[Tensor, "b v f y x"],
        pose: Float[Tensor, "b v 9"],
        extent: Float[Tensor, "b 3"],
        size: tuple[int, int, int],
        present: Bool[Tensor, "b v"] | None = None,
    ) -> Float[Tensor, "b c d h w"]:
        """Features on a latent grid of `size` that fills `extent` mm; zero outside the field of the X-ray.

        The mean is over the `present` views; None: all are present.

        An encoder with a mask marks unknown pixels in its maps, so the lift treats all pixels alike.

        The pose has no NaN (`dataset.imaging.geometry.fill_unknown`).
        """
        b, v = maps.shape[:2]
        bins = self.spread(maps.flatten(0, 1)).unflatten(1, (self.config.channels, self.config.depth_bins))
        with torch.autocast(maps.device.type, enabled=False):  # in bfloat16 a ray would miss its pixel
            rays = torch.func.vmap(ray_coordinates, in_dims=(None, 0, 0))
            grid = rays(size, extent.repeat_interleave(v, dim=0), pose.flatten(0, 1))
        # beyond the centres of the first and last bin, take the nearest bin; rows and columns outside read zero
        reach = 1.0 - 1.0 / self.config.depth_bins
        grid = torch.cat([grid[..., :2], grid[..., 2:].clamp(-reach, reach)], dim=-1)
        lifted = F.grid_sample(bins.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        return mean_over_views(lifted.unflatten(0, (b, v)), present)


class GridLift(ModelMixin, ConfigMixin):
    """Maps of axial slabs `(b, v, feature_channels, y, x)` of the same box, resampled to `(b, channels, d, h, w)`."""

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
        present: Bool[Tensor, "b v"] | None = None,
    ) -> Float[Tensor, "b c d h w"]:
        """Trilinear resampling; `pose`, `extent` and `present` are unused (same signature as `RayLift`)."""
        mixed = self.mix(maps.movedim(1, 2))
        return F.interpolate(mixed.float(), size, mode="trilinear", align_corners=False)


def make_lift(encoder: XrayEncoder, channels: int, depth_bins: int) -> RayLift | GridLift:
    """The untrained lift of an encoder's maps: along rays for X-rays, by resampling for a source volume."""
    if encoder.volumetric:
        return GridLift(encoder.feature_channels, channels)
    return RayLift(encoder.feature_channels, channels, depth_bins)
