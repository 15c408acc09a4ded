"""Line integrals of several volumes at once along the rays of one pose, through a random deformation.

The rays bend instead of the volume: each sample of a ray reads the volume at its displaced position, so a deformed
chest costs one interpolation of all channels, and no volume is resampled.
"""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dataset.imaging.geometry import camera_axes, extent_mm, source_position

STEP_MM = 3.0  # between two samples of a ray
COARSE = 4  # the displacement is computed at every fourth sample along each axis and interpolated


class Deformation:
    """An affine map and smooth random displacements, from points of the deformed chest to points of the volume.

    Args:
        rng: source of the random numbers.
        scale: largest relative change of the size along each axis, up or down.
        shear: largest shear.
        bumps: standard deviation in mm of the displacement, and the distance in mm over which it changes.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        scale: float = 0.2,
        shear: float = 0.05,
        bumps: tuple[tuple[float, float], ...] = ((9.0, 90.0), (3.0, 40.0)),
    ):
        factors = np.exp(rng.uniform(-1, 1, 3) * math.log1p(scale))
        matrix = np.diag(1.0 / factors) + rng.uniform(-shear, shear, (3, 3)) * (1 - np.eye(3))
        self.matrix = torch.from_numpy(matrix.astype(np.float32))
        self.fields = []
        for size, distance in bumps:
            count = max(3, round(600.0 / distance))  # knots over 600 mm
            knots = rng.standard_normal((1, 3, count, count, count), dtype=np.float32)
            self.fields.append(size * torch.from_numpy(knots))

    def __call__(self, points: Float[Tensor, "*p 3"]) -> Float[Tensor, "*p 3"]:
        """Positions in the volume of points `(d, h, w)`, both in mm relative to the centre of the volume."""
        grid = (points / 300.0).flip(-1).reshape(1, 1, 1, -1, 3)
        moved = points @ self.matrix.T
        for knots in self.fields:
            found = F.grid_sample(knots, grid, mode="bilinear", padding_mode="border", align_corners=False)
            moved = moved + found[0, :, 0, 0].T.reshape(points.shape)
        return moved


def project_volumes(
    volumes: Float[Tensor, "c d h w"],
    spacing: tuple[float, float, float],
    pose: Float[Tensor, "9"],
    size: tuple[int, int],
    deformation: Deformation | None = None,
) -> Float[Tensor, "c rows columns"]:
    """Line integrals in (unit of the volume) x mm of each volume.

    Beside the volume along H and W there is nothing; above and below it, its last slices continue, because a
    radiograph shows neck and abdomen where a CT ends.
    """
    extent = extent_mm(volumes.shape[1:], spacing)
    beam, column, row = camera_axes(pose)
    source, (rows, columns) = source_position(pose), size
    down, across = torch.meshgrid(
        (torch.arange(rows) + 0.5) * 2 / rows - 1, (torch.arange(columns) + 0.5) * 2 / columns - 1, indexing="ij"
    )
    # the field width of an AP view is negative: its columns are mirrored for display
    ray = pose[0] * beam + across[..., None] * pose[8] / 2 * column + down[..., None] * pose[7] / 2 * row
    reach = 0.62 * math.hypot(extent[1], extent[2]) if abs(float(beam[1])) < 0.9 else 0.5 * extent[1] + 60.0
    near, far = float(pose[1]) - reach, float(pose[1]) + reach
    count = COARSE * math.ceil((far - near) / STEP_MM / COARSE)
    shares = (near + (torch.arange(count) + 0.5) * (far - near) / count) / float(pose[0])
    points = source + shares[:, None, None, None] * ray
    if deformation is not None:
        points = points + _interpolated(deformation, points)
    half = torch.tensor([e / 2 for e in extent])
    # one voxel of nothing beyond each face along H and W
    sizes = torch.tensor([n / (n + 2 * (axis > 0)) for axis, n in enumerate(volumes.shape[1:])])
    grid = (points / half * sizes).flip(-1)[None]
    padded = F.pad(volumes, (1, 1, 1, 1))[None]
    values = F.grid_sample(padded, grid, mode="bilinear", padding_mode="border", align_corners=False)[0]
    return values.sum(dim=1) * (ray.norm(dim=-1) * (far - near) / count / float(pose[0]))


def _interpolated(deformation: Deformation, points: Float[Tensor, "s r c 3"]) -> Float[Tensor, "s r c 3"]:
    """Displacement at all points, from every fourth of them along each axis."""
    whole = points.permute(3, 0, 1, 2)[None]
    coarse = F.interpolate(whole, scale_factor=1 / COARSE, mode="area")[0].permute(1, 2, 3, 0)
    moved = (deformation(coarse) - coarse).permute(3, 0, 1, 2)[None]
    fine = F.interpolate(moved, size=points.shape[:3], mode="trilinear", align_corners=False)
    return fine[0].permute(1, 2, 3, 0)
