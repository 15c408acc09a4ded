"""The line integrals of `ddpm.consistency.ray_matrix` without a matrix, for poses that change, with derivatives."""

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ddpm.consistency.ray_matrix import ray_samples


@dataclass(frozen=True)
class RayProjector:
    """Rays of the views of an X-ray through a grid of `size` voxels over `extent` mm."""

    size: tuple[int, int, int]
    extent: tuple[float, float, float]
    poses: Float[Tensor, "v 9"]
    pixels: int

    def project(self, volumes: Float[Tensor, "b voxels"]) -> Float[Tensor, "b rays"]:
        """Line integrals of volumes, view after view."""
        found = [self._values(volumes, grid).sum(dim=2) * weight for grid, weight in self._views]
        return torch.cat(found, dim=1)

    def back_project(self, images: Float[Tensor, "b rays"]) -> Float[Tensor, "b voxels"]:
        """The transpose of `project`."""
        with torch.enable_grad():
            volumes = images.new_zeros(len(images), self.size[0] * self.size[1] * self.size[2], requires_grad=True)
            return torch.autograd.grad(self.project(volumes), volumes, images)[0]

    def pose_jacobian(
        self, volume: Float[Tensor, " voxels"], view: int, directions: Float[Tensor, "k 9"]
    ) -> Float[Tensor, "rays k"]:
        """Derivatives of the line integrals of one view along changes of its pose.

        A sample of the volume depends on its own place alone, so one pass backward gives the gradients at all places.
        """

        def rays(steps: Float[Tensor, " k"]) -> tuple[Tensor, Tensor]:
            return self._samples(self.poses[view] + steps @ directions)

        grid, weight = self._views[view]
        grid_change, weight_change = torch.func.jacfwd(rays)(torch.zeros(len(directions)).to(self.poses))
        with torch.enable_grad():
            grid = grid.detach().requires_grad_()
            values = self._values(volume[None], grid)
            slopes = torch.autograd.grad(values.sum(), grid)[0]
        moved = torch.einsum("rsx,rsxk->rk", slopes, grid_change)
        return weight[:, None] * moved + values.detach()[0].sum(dim=1, keepdim=True) * weight_change

    @cached_property
    def _views(self) -> list[tuple[Tensor, Tensor]]:
        return [self._samples(pose) for pose in self.poses]

    def _samples(self, pose: Float[Tensor, "9"]) -> tuple[Float[Tensor, "r s 3"], Float[Tensor, " r"]]:
        """Places of samples as coordinates of `grid_sample`, last axis first, and the mm that each counts."""
        place, weight = ray_samples(self.size, self.extent, pose, self.pixels)
        counts = torch.tensor(self.size).to(place)
        return ((2.0 * place + 1.0) / counts - 1.0).flip(-1), weight

    def _values(self, volumes: Float[Tensor, "b voxels"], grid: Float[Tensor, "r s 3"]) -> Float[Tensor, "b r s"]:
        channels, options = volumes.view(1, -1, *self.size), {"padding_mode": "border", "align_corners": False}
        return F.grid_sample(channels, grid[None, None], **options)[0, :, 0]
