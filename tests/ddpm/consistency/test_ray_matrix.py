"""The sparse projector against the renderer of DRRs, against a closed form, and against its transpose."""

import pytest
import torch
import torch.nn.functional as F

from dataset.imaging.drr import line_integrals
from dataset.imaging.drr_options import DrrSettings
from dataset.imaging.forward_model import attenuation_map
from dataset.imaging.geometry import make_pose
from ddpm.consistency.ray_matrix import ray_matrix

EXTENT, SIZE = (320.0, 256.0, 352.0), (32, 24, 28)
POSES = {
    "PA": DrrSettings().poses(EXTENT)[0],
    "AP": DrrSettings(view="AP").poses(EXTENT)[0],
    "lateral": DrrSettings().poses(EXTENT, 2)[1],
    "oblique": make_pose(EXTENT, azimuth=7.0, elevation=-4.0),
}


@pytest.mark.parametrize("view", POSES)
def test_it_gives_the_line_integrals_of_the_renderer(view):
    coarse = torch.randn(1, 1, 6, 6, 6, generator=torch.Generator().manual_seed(0))
    inner = F.interpolate(coarse, tuple(n - 6 for n in SIZE), mode="trilinear")[0, 0]
    hu = F.pad(200.0 * inner, (3,) * 6, value=-1000)
    spacing = [e / n for e, n in zip(EXTENT, SIZE, strict=True)]
    rendered = line_integrals(hu, spacing, POSES[view], (16, 16))
    found = ray_matrix(SIZE, EXTENT, POSES[view][None], 16).project(attenuation_map("bilinear").of(hu).reshape(1, -1))
    assert (found.view(16, 16) - rendered).abs().max() < 0.01 * rendered.max()
    assert rendered.std() > 0.1 * rendered.max()


def test_a_constant_box_gives_the_length_of_the_ray_in_it():
    pose = make_pose(EXTENT)
    found = ray_matrix(SIZE, EXTENT, pose[None], 64).project(torch.full((1, SIZE[0] * SIZE[1] * SIZE[2]), 0.02))
    middle = found.view(64, 64)[31:33, 31:33]
    torch.testing.assert_close(middle, torch.full((2, 2), 0.02 * EXTENT[1]), rtol=1e-3, atol=0.0)


def test_back_projection_is_the_transpose_and_views_follow_each_other():
    poses = torch.stack([POSES["PA"], POSES["lateral"]])
    both = ray_matrix(SIZE, EXTENT, poses, 8)
    volumes, images = torch.randn(3, SIZE[0] * SIZE[1] * SIZE[2]), torch.randn(3, 2 * 64)
    there, back = both.project(volumes) * images, volumes * both.back_project(images)
    torch.testing.assert_close(there.sum(dim=1), back.sum(dim=1), rtol=1e-4, atol=1.0)
    single = [ray_matrix(SIZE, EXTENT, pose[None], 8).project(volumes) for pose in poses]
    torch.testing.assert_close(both.project(volumes), torch.cat(single, dim=1), rtol=1e-4, atol=1e-3)
