"""Projection of several volumes at once: the line integrals of the DRR, through a deformation too."""

import numpy as np
import pytest
import torch

from dataset.imaging.drr import line_integrals
from dataset.imaging.forward_model import MAPS, MU_WATER
from dataset.imaging.geometry import view_pose
from dataset.xray.domes import OUTER, above_dome, split_lungs
from train.lungs.projection import Deformation, project_volumes

EXTENT, SPACING = (240.0, 200.0, 280.0), (5.0, 5.0, 5.0)
SHAPE = tuple(int(e / s) for e, s in zip(EXTENT, SPACING, strict=True))


def box(low, high) -> torch.Tensor:
    """A volume of 0 with 1 in a box of voxels."""
    volume = torch.zeros(SHAPE)
    volume[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = 1.0
    return volume


@pytest.mark.parametrize("view", ["PA", "AP"])
def test_line_integrals_equal_those_of_the_drr(view):
    hu = torch.where(box((8, 10, 12), (40, 30, 40)) > 0, 40.0, -1000.0)
    hu[14:30, 14:26, 16:24] = 600.0
    mu = MU_WATER * (1 + hu.clamp(max=0) / 1000) + (MAPS["bilinear"].dense - MU_WATER) * hu.clamp(min=0) / 1000
    pose = view_pose(EXTENT, view)
    ours, theirs = project_volumes(mu[None], SPACING, pose, (48, 48))[0], line_integrals(hu, SPACING, pose, (48, 48))
    inner = slice(6, -6)  # beyond its last slices the volume continues
    assert (ours - theirs)[inner].abs().mean() < 0.02 * theirs.mean()
    assert (ours.flip(1) - theirs)[inner].abs().mean() > 0.1 * theirs.mean()


def test_depth_is_in_mm_and_several_volumes_share_the_rays():
    volumes = torch.stack([box((0, 10, 0), (48, 20, 56)), box((0, 20, 0), (48, 32, 56))])
    depth = project_volumes(volumes, SPACING, view_pose(EXTENT), (33, 33))[:, 16, 16]
    assert depth.tolist() == pytest.approx([50.0, 60.0], rel=0.03)


def test_a_stretched_chest_is_wider_by_the_factor():
    deformation = Deformation(np.random.default_rng(0), bumps=())
    deformation.matrix = torch.diag(torch.tensor([1.0, 1.0, 1.0 / 1.25]))
    slab, pose = box((0, 15, 18), (48, 20, 38))[None], view_pose(EXTENT)
    plain, wide = (project_volumes(slab, SPACING, pose, (64, 64), d)[0, 32] for d in (None, deformation))
    assert float((wide > 5).sum()) == pytest.approx(1.25 * float((plain > 5).sum()), rel=0.08)


def test_deformations_are_smooth_and_repeatable():
    points = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)) * 80
    a, b = (Deformation(np.random.default_rng(3))(points) for _ in range(2))
    assert torch.equal(a, b)
    near = Deformation(np.random.default_rng(3))(points + 0.1)
    assert float((near - a).norm(dim=-1).max()) < 0.5


def test_touching_lungs_are_split_and_one_lung_is_not():
    mask = np.zeros((24, 24, 40), dtype=bool)
    mask[4:20, 4:20, 2:18] = mask[4:20, 4:20, 22:38] = True
    mask[11:13, 11:13, 18:22] = True
    right, left = split_lungs(mask)
    assert (right | left).sum() == mask.sum() and not (right & left).any()
    assert right[:, :, :18].sum() == mask[:, :, :18].sum() and left[:, :, 22:].sum() == mask[:, :, 22:].sum()
    assert split_lungs(mask & (np.arange(40) < 18)) is None


@pytest.mark.parametrize("outer", OUTER)
def test_the_recess_and_nothing_else_lies_below_the_dome(outer):
    """A lung over a dome of 20 voxels, with a recess of 10 behind it, and a heart at the inner front."""
    lung = np.zeros((60, 40, 30), dtype=bool)
    lung[20:58, 4:36, 3:27] = True
    lung[10:20, 30:36, 3:27] = True  # recess
    inner = slice(15, 27) if outer < 0 else slice(3, 15)
    lung[20:45, 4:20, inner] = False  # heart
    above = above_dome(lung, outer)
    assert (above[20:] == lung[20:]).all()
    assert not above[:20, :, 6:24].any()  # the dome is smooth, so it falls in the outermost planes


def test_without_a_recess_the_whole_lung_lies_above_the_dome():
    flat = np.zeros((40, 30, 30), dtype=bool)
    flat[8:36, 3:27, 3:27] = True
    for outer in OUTER:
        assert (above_dome(flat, outer) == flat).all()
