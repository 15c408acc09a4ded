"""Stationary velocity fields and the diffeomorphisms that they generate.

A field is `(3, D, H, W)` in the order x, y, z (W, H, D) of `F.grid_sample`, in box coordinates: -1 and 1 are the outer
faces of the volume. A displacement `u` is the map `x -> x + u(x)`. Sums and multiples of velocities generate maps that
stay invertible; sums of displacements do not (Arsigny et al. 2006, doi 10.1007/11866565_113).
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

LARGEST_STEP = 0.25  # voxels: longest displacement before it is squared


def identity(size: tuple[int, int, int]) -> Float[Tensor, "3 d h w"]:
    """Box coordinates of the voxel centres."""
    axes = [(torch.arange(n, dtype=torch.float32) + 0.5) * 2.0 / n - 1.0 for n in size]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1])


def sample(volume: Float[Tensor, "c d h w"], points: Float[Tensor, "3 i j k"]) -> Float[Tensor, "c i j k"]:
    """Values of a volume at box coordinates, trilinear; beyond the faces the outermost voxels continue."""
    grid = points.permute(1, 2, 3, 0)[None]
    return F.grid_sample(volume[None], grid, mode="bilinear", padding_mode="border", align_corners=False)[0]


def interpolate(
    field: Float[Tensor, "c d h w"], low: Sequence[float], high: Sequence[float], size: tuple[int, int, int]
) -> Float[Tensor, "c i j k"]:
    """`sample` on a regular grid of `size` voxels from `low` to `high` (D, H, W), one axis after the other."""
    weights = [_linear_weights(n, *span) for n, *span in zip(field.shape[1:], low, high, size, strict=True)]
    for weight in weights:  # contracts the first axis and appends the new one
        field = torch.tensordot(field, weight, dims=([1], [1]))
    return field


def _linear_weights(n: int, low: float, high: float, size: int) -> Float[Tensor, "size n"]:
    centres = low + (torch.arange(size, dtype=torch.float32) + 0.5) * (high - low) / size
    place = ((centres + 1.0) * n / 2.0 - 0.5).clamp(0, n - 1)
    return (1.0 - (place[:, None] - torch.arange(n)).abs()).clamp(min=0.0)


def resize(field: Float[Tensor, "3 d h w"], size: tuple[int, int, int]) -> Float[Tensor, "3 i j k"]:
    """The field on another grid over the same box."""
    if tuple(field.shape[1:]) == tuple(size):
        return field
    return F.interpolate(field[None], size=tuple(size), mode="trilinear", align_corners=False)[0]


def compose(outer: Float[Tensor, "3 d h w"], inner: Float[Tensor, "3 d h w"]) -> Float[Tensor, "3 d h w"]:
    """Displacement of `x -> outer(inner(x))`; beyond the box the outer displacement is that of its border."""
    return inner + sample(outer, identity(tuple(inner.shape[1:])) + inner)


def exponential(velocity: Float[Tensor, "3 d h w"]) -> Float[Tensor, "3 d h w"]:
    """Displacement at time 1 of the flow of `velocity`, by scaling and squaring."""
    voxels = torch.tensor(velocity.shape[:0:-1], dtype=torch.float32).view(3, 1, 1, 1) / 2.0
    longest = float((velocity * voxels).norm(dim=0).max())
    squarings = max(0, math.ceil(math.log2(max(longest, 1e-12) / LARGEST_STEP)))
    displacement = velocity / 2.0**squarings
    for _ in range(squarings):
        displacement = compose(displacement, displacement)
    return displacement


def jacobian(displacement: Float[Tensor, "3 d h w"]) -> Float[Tensor, "d h w"]:
    """Determinant of the Jacobian of the map: local volume after over before; not positive where it folds."""
    gradients = []
    for axis, n in zip((3, 2, 1), displacement.shape[:0:-1], strict=True):  # x, y, z
        gradients.append(torch.gradient(displacement, spacing=2.0 / n, dim=axis)[0])
    matrix = torch.stack(gradients, dim=1) + torch.eye(3).view(3, 3, 1, 1, 1)  # (component, derivative)
    return torch.linalg.det(matrix.permute(2, 3, 4, 0, 1))


def linear(matrix: Float[Tensor, "3 3"], shift: Float[Tensor, "3"], size) -> Float[Tensor, "3 d h w"]:
    """Velocity `matrix @ x + shift`; it generates the affine map of the matrix exponential."""
    return torch.einsum("ij,jdhw->idhw", matrix, identity(size)) + shift.view(3, 1, 1, 1)
