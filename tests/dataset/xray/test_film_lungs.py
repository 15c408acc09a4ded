"""Lungs found in a film and its enlargements: they agree with those of the film alone, and follow it."""

import pytest
import torch

from dataset.imaging.drr import render_xray
from dataset.imaging.geometry import make_pose
from dataset.imaging.lung_network import find_lungs
from dataset.phantom.render import render_phantom
from dataset.xray.film_lungs import FILLS, enlargement, find_film_lungs


@pytest.fixture(scope="module")
def xray() -> torch.Tensor:
    phantom = render_phantom(2, seed=4, size=(48, 48, 48))
    extent = tuple(n * s for n, s in zip(phantom.hu.shape, phantom.spacing, strict=True))
    hu = torch.as_tensor(phantom.hu_plain, dtype=torch.float32)
    return render_xray(hu, phantom.spacing, make_pose(extent)[None], (128, 128))[0]


def overlap(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(2.0 * (a & b).sum() / (a.sum() + b.sum()))


def test_an_enlargement_keeps_the_shape_of_the_box_and_centres_it():
    used = enlargement((0.3, 0.7, 0.2, 0.5), 0.8)
    top, bottom, left, right = used.target
    assert bottom - top == pytest.approx(0.8) and right - left == pytest.approx(0.6)
    assert top + bottom == pytest.approx(1.0) and left + right == pytest.approx(1.0)
    assert used.scale[0] == pytest.approx(used.scale[1])


def test_they_are_near_those_of_the_whole_xray_and_move_with_it(xray):
    found = find_film_lungs(xray).mask((128, 128))
    assert overlap(found, find_lungs(xray).mask((128, 128))) > 0.9
    shifted = find_film_lungs(xray.roll(6, dims=1)).mask((128, 128))
    assert overlap(shifted, found.roll(6, dims=1)) > 0.93 > overlap(shifted, found)


def test_a_picture_without_lungs_has_none():
    empty = torch.zeros(64, 64)
    assert find_film_lungs(empty).box is None and not find_film_lungs(empty).lungs.any()
    assert all(0.5 < fill < 1.0 for fill in FILLS)
