"""Samples of the pipeline with a guide of their lungs: only guided X-rays change, towards their bounds."""

import pytest
import torch
from consistent_parts import towards
from ddpm_parts import module

from dataset.imaging.geometry import unknown_pose

XRAYS = torch.rand(2, 1, 1, 64, 64, generator=torch.Generator().manual_seed(3))
POSES = torch.stack([unknown_pose(1, ["PA"])] * 2)


@pytest.fixture(scope="module")
def made():
    torch.manual_seed(0)
    return module().pipeline().set_sampler("DPMSolverMultistepScheduler", 4)


def sample(made, guides=None):
    latents = []
    keep = {"preview": lambda step, clean: latents.append(clean)}
    found = made(XRAYS, POSES, 1, seed=1, allow_any_picture=True, guides=guides, **keep)
    return found, latents[-1]


def test_an_xray_without_guide_keeps_its_bits_and_one_with_it_is_nearer_to_its_bounds(made):
    (free, before), (guided, after) = sample(made), sample(made, [towards(), None])
    assert torch.equal(free.volumes[1], guided.volumes[1]) and not torch.equal(free.volumes[0], guided.volumes[0])
    assert torch.equal(sample(made, [None, None])[0].volumes, free.volumes)
    assert free.chi2 is None and guided.first_chi2 is None
    asked = towards()
    outside = [
        asked.outside(asked.rays.project(asked.guide.decoder(z[:1]).flatten(1))).abs().sum() for z in (before, after)
    ]
    assert outside[1] < 0.95 * outside[0]  # the network without training undoes most of it in the free steps
