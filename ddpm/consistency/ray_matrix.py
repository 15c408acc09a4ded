"""Line integrals of a voxel grid as a sparse matrix: fast to apply to many volumes, with an exact transpose."""

import math
import warnings
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from dataset.imaging.geometry import camera_axes, source_position

SAMPLES_PER_VOXEL = 1.0  # along a ray, of the longest side of the grid


class RayMatrix(NamedTuple):
    """The matrix `(rays, voxels)` and its transpose, both in CSR form: torch multiplies a transposed CSR slowly."""

    forward: Tensor
    backward: Tensor

    def project(self, volumes: Float[Tensor, "b voxels"]) -> Float[Tensor, "b rays"]:
        """Line integrals of volumes."""
        return (self.forward @ volumes.T).T

    def back_project(self, images: Float[Tensor, "b rays"]) -> Float[Tensor, "b voxels"]:
        """The transpose of `project`."""
        return (self.backward @ images.T).T


def ray_matrix(
    size: tuple[int, int, int], extent: tuple[float, float, float], poses: Float[Tensor, "v 9"], pixels: int
) -> RayMatrix:
    """Line integrals in mm along the rays to the centres of `(v, pixels, pixels)` pixels, flattened.

    The grid has `size` voxels over `extent` mm `(D, H, W)` and is interpolated trilinearly, with its border values up
    to the faces of the outer voxels and 0 beyond. The geometry is that of `dataset.imaging.drr.line_integrals`.
    """
    parts = [_view(size, extent, pose.double().cpu(), pixels) for pose in poses]
    rows = torch.cat([row + i * pixels**2 for i, (row, _, _) in enumerate(parts)])
    columns, values = (torch.cat([part[k] for part in parts]) for k in (1, 2))
    shape = (len(poses) * pixels**2, math.prod(size))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that CSR is in beta, and that its indices are not checked
        matrix = torch.sparse_coo_tensor(torch.stack([rows, columns]), values.float(), shape).coalesce()
        return RayMatrix(matrix.to_sparse_csr(), matrix.t().coalesce().to_sparse_csr())


def ray_samples(
    size: tuple[int, int, int], extent: tuple[float, float, float], pose: Float[Tensor, "9"], pixels: int
) -> tuple[Float[Tensor, "rays samples 3"], Float[Tensor, " rays"]]:
    """Places of the samples along each ray, in voxels, and the mm that each of them counts; differentiable in pose."""
    half, counts = torch.tensor(extent).to(pose) / 2.0, torch.tensor(size, device=pose.device)
    source, rays = source_position(pose), _rays(pose, pixels)
    # entry into and exit from the box, as multiples of a ray (Kay and Kajiya 1986)
    safe = torch.where(rays.abs() < 1e-9, torch.full_like(rays, 1e-9), rays)
    faces = torch.stack([(-half - source) / safe, (half - source) / safe])
    near = faces.amin(dim=0).amax(dim=-1).clamp(0.0, 1.0)
    length = (faces.amax(dim=0).amin(dim=-1).clamp(0.0, 1.0) - near).clamp_min(0.0)
    samples = math.ceil(SAMPLES_PER_VOXEL * max(size))
    steps = (torch.arange(samples).to(pose) + 0.5) / samples
    points = source + rays[:, None] * (near[:, None] + length[:, None] * steps)[..., None]
    place = ((points + half) / (2.0 * half) * counts - 0.5).clamp_min(0.0).minimum(counts - 1.0)
    return place, length * rays.norm(dim=-1) / samples


def _view(size: tuple, extent: tuple, pose: Tensor, pixels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Row, column and value of the entries of one view; entries of the same place add up."""
    place, weight = ray_samples(size, extent, pose, pixels)
    counts, (rays, samples) = torch.tensor(size), place.shape[:2]
    weight = weight[:, None].expand(-1, samples)
    low = place.floor().minimum((counts - 2.0).clamp_min(0.0))
    share, low = place - low, low.long()
    rows = torch.arange(rays)[:, None].expand(-1, samples)
    found = []
    for corner in range(8):
        bits = torch.tensor([corner >> 2 & 1, corner >> 1 & 1, corner & 1])
        index = torch.minimum(low + bits, counts - 1)
        column = (index[..., 0] * size[1] + index[..., 1]) * size[2] + index[..., 2]
        value = weight * torch.where(bits.bool(), share, 1.0 - share).prod(dim=-1)
        kept = value > 0
        found.append((rows[kept], column[kept], value[kept]))
    return tuple(torch.cat(part) for part in zip(*found, strict=True))


def _rays(pose: Tensor, pixels: int) -> Float[Tensor, "rays 3"]:
    """Vectors `(d, h, w)` in mm from the source to the centres of the pixels, row by row."""
    beam, column, row = camera_axes(pose)
    across = (torch.arange(pixels).to(pose) + 0.5) / pixels - 0.5
    down, right = (across * pose[7])[:, None, None], (across * pose[8])[None, :, None]
    return (pose[0] * beam + down * row + right * column).flatten(0, 1)
