"""Lifted features follow the rays: a voxel has the feature of the pixel where the DRR shows it."""

import pytest
import torch

from dataset.imaging.drr import line_integrals
from dataset.imaging.geometry import make_pose
from ddpm.conditioning.lift import RayLift, ray_coordinates

EXTENT = (320.0, 256.0, 352.0)
SIZE = (16, 16, 16)


@pytest.mark.parametrize("azimuth", [0.0, 90.0, 35.0])
def test_a_voxel_gets_the_pixel_that_its_ray_hits(azimuth):
    pose = make_pose(EXTENT, azimuth=azimuth)
    spacing = tuple(e / n for e, n in zip(EXTENT, SIZE, strict=True))
    for voxel in ((3, 4, 5), (12, 8, 3), (8, 13, 12)):
        hu = torch.full(SIZE, -1000.0)
        hu[voxel] = 1000.0
        shadow = line_integrals(hu, spacing, pose, size=(64, 64))
        # a map that is 1 where the shadow is: the lifted volume must be high at the voxel
        lift = RayLift(1, 1, depth_bins=1)
        torch.nn.init.ones_(lift.spread.weight)
        torch.nn.init.zeros_(lift.spread.bias)
        lifted = lift((shadow / shadow.max())[None, None, None], pose[None, None], torch.tensor(EXTENT)[None], SIZE)
        assert lifted[0, 0][voxel] > 0.6
        assert lifted[0, 0][voxel] > 0.6 * lifted.max()


def test_depth_runs_from_the_source_to_the_detector():
    grid = ray_coordinates(SIZE, torch.tensor(EXTENT), make_pose(EXTENT))
    # posterior-anterior: the source is behind the patient, H runs anterior to posterior
    assert grid[8, 15, 8, 2] == pytest.approx(-1 + 1 / 16, abs=1e-3)
    assert grid[8, 0, 8, 2] == pytest.approx(1 - 1 / 16, abs=1e-3)


def test_bins_are_read_at_their_depth():
    lift = RayLift(1, 1, depth_bins=16)
    torch.nn.init.zeros_(lift.spread.weight)
    with torch.no_grad():
        lift.spread.bias.copy_(torch.arange(16.0))
    out = lift(torch.zeros(1, 1, 1, 8, 8), make_pose(EXTENT)[None, None], torch.tensor(EXTENT)[None], SIZE)
    along = out[0, 0, 8, :, 8]
    assert torch.allclose(along, torch.arange(15.0, -1.0, -1.0), atol=0.05)


def test_views_are_averaged_and_gradients_reach_the_maps():
    lift = RayLift(2, 3, depth_bins=4)
    maps = torch.randn(1, 2, 2, 8, 8, requires_grad=True)
    pose = torch.stack([make_pose(EXTENT), make_pose(EXTENT, azimuth=90.0)])[None]
    extent = torch.tensor(EXTENT)[None]
    both = lift(maps, pose, extent, SIZE)
    single = [lift(maps[:, i : i + 1], pose[:, i : i + 1], extent, SIZE) for i in range(2)]
    assert torch.allclose(both, (single[0] + single[1]) / 2, atol=1e-6)
    both.sum().backward()
    assert (maps.grad.abs().amax(dim=(0, 2, 3, 4)) > 0).all()


def test_rays_keep_their_pixels_under_autocast():
    lift = RayLift(1, 1, depth_bins=4)
    maps, pose = torch.rand(1, 1, 1, 64, 64), make_pose(EXTENT)[None, None]
    exact = lift(maps, pose, torch.tensor(EXTENT)[None], SIZE)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = lift(maps, pose, torch.tensor(EXTENT)[None], SIZE)
    assert (exact - rounded).abs().max() < 0.02 * exact.abs().max()
