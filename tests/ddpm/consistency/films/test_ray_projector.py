"""The projector without a matrix against the matrix, its transpose, and differences of its line integrals."""

import pytest
import torch

from dataset.imaging.drr_options import DrrSettings
from ddpm.consistency.films.ray_projector import RayProjector
from ddpm.consistency.ray_matrix import ray_matrix

EXTENT, SIZE, PIXELS = (320.0, 256.0, 352.0), (12, 10, 14), 8
POSES = DrrSettings().poses(EXTENT, 2)


@pytest.fixture(scope="module")
def rays():
    return RayProjector(SIZE, EXTENT, POSES.double(), PIXELS)


def volumes(n):
    return torch.randn(n, SIZE[0] * SIZE[1] * SIZE[2], generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_it_gives_the_line_integrals_of_the_matrix(rays):
    matrix = ray_matrix(SIZE, EXTENT, POSES, PIXELS)
    torch.testing.assert_close(
        rays.project(volumes(2)).float(), matrix.project(volumes(2).float()), rtol=1e-4, atol=0.02
    )


def test_back_projection_is_its_transpose(rays):
    given, images = volumes(2), torch.randn(2, 2 * PIXELS**2, dtype=torch.float64)
    there, back = rays.project(given) * images, given * rays.back_project(images)
    torch.testing.assert_close(there.sum(dim=1), back.sum(dim=1))


@pytest.mark.parametrize("view", [0, 1])
def test_its_derivatives_are_those_of_the_line_integrals(rays, view):
    directions = torch.zeros(4, 9, dtype=torch.float64)
    directions[[0, 1, 2, 3], [2, 3, 4, 6]] = 1.0  # azimuth, elevation, centre
    smooth = torch.nn.functional.avg_pool3d(volumes(1).view(1, 1, *SIZE), 3, 1, 1).flatten()
    found, step = rays.pose_jacobian(smooth, view, directions), 1e-5
    for k, direction in enumerate(directions):
        ends = [RayProjector(SIZE, EXTENT, (rays.poses[view] + s * direction)[None], PIXELS) for s in (step, -step)]
        difference = (ends[0].project(smooth[None]) - ends[1].project(smooth[None]))[0] / (2.0 * step)
        torch.testing.assert_close(found[:, k], difference, rtol=1e-3, atol=1e-3 * float(difference.abs().max()))
