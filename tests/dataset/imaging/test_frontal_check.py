"""Frontal chest X-rays are accepted, everything else is refused with a reason."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from sklearn.datasets import load_sample_images

from common.files import ROOT
from dataset.imaging.coverage import fill
from dataset.imaging.drr import render_xray, scale_xray
from dataset.imaging.frontal_check import why_not_frontal
from dataset.imaging.geometry import view_pose
from dataset.io.ct import read_volume
from dataset.io.xray import find_xrays, read_xray, resize_xray
from dataset.phantom.render import render_phantom

CHESTS = ("lidc-idri-0001", "rider-lung-ct")
SIZE = (128, 128)


@pytest.fixture(scope="module")
def volumes():
    """HU and spacing of two shipped chests and two phantoms."""
    made = []
    for name in CHESTS:
        volume = read_volume(ROOT / "assets" / "chests" / f"{name}.nii.gz")
        made.append((torch.from_numpy(fill(volume.hu)[0].astype(np.float32)), volume.spacing))
    for index in range(2):
        phantom = render_phantom(20000950 + index, size=(64, 64, 64))
        made.append((torch.from_numpy(phantom.hu_plain), phantom.spacing))
    return made


def drr(hu, spacing, view, **changes):
    extent = tuple(n * s for n, s in zip(hu.shape, spacing, strict=True))
    pose = view_pose(extent, view)
    for field, change in changes.items():
        pose[{"azimuth": 2, "elevation": 3, "centre_d": 4}[field]] += change
    return render_xray(hu, spacing, pose[None], SIZE)[0]


def scaled(array) -> torch.Tensor:
    return scale_xray(resize_xray(torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)), SIZE))


@pytest.mark.parametrize("view", ["PA", "AP"])
def test_frontal_drrs_are_accepted(volumes, view):
    for turn in (-5.0, 0.0, 5.0):
        assert [why_not_frontal(drr(*volume, view, azimuth=turn, elevation=turn / 2)) for volume in volumes] == [
            None
        ] * 4


def test_laterals_are_refused(volumes):
    for turn in (-10.0, 0.0, 10.0):
        assert all(why_not_frontal(drr(*volume, "lateral", azimuth=turn)) for volume in volumes)


def test_inverted_and_turned_chests_are_named(volumes):
    for volume in volumes:
        image = drr(*volume, "PA")
        assert "looks inverted" in why_not_frontal(1.0 - image)
        assert "looks upside down" in why_not_frontal(image.rot90(2))
        assert "looks turned by 90°" in why_not_frontal(image.rot90(3))


def test_slices_and_projections_of_a_ct_are_refused(volumes):
    for hu, _ in volumes[:2]:
        for level in (0.35, 0.5, 0.65):
            slice_ = hu[int(level * len(hu))]
            assert why_not_frontal(scaled(slice_.clamp(-1000, 400)))
            assert why_not_frontal(scaled(slice_.clamp(-160, 240)))
        assert why_not_frontal(scaled(hu.amax(dim=0)))


def test_the_abdomen_alone_is_refused(volumes):
    for hu, spacing in volumes:
        below = hu[: int(0.22 * len(hu))].repeat_interleave(4, dim=0)
        assert why_not_frontal(drr(below, spacing, "PA"))


def test_a_phantom_without_lungs_is_refused():
    phantom = render_phantom(20000960, size=(64, 64, 64))
    solid = torch.from_numpy(phantom.hu_plain)
    inside = torch.zeros_like(solid, dtype=torch.bool)
    inside[:, 8:-8, 14:-14] = True
    assert why_not_frontal(drr(torch.where(inside, solid.clamp(min=30.0), solid), phantom.spacing, "PA"))


def test_photographs_noise_and_text_are_refused():
    for photograph in load_sample_images().images:
        grey = photograph.mean(axis=-1)
        assert why_not_frontal(scaled(grey)) and why_not_frontal(scaled(grey[:, :400]))
    rng = np.random.default_rng(0)
    assert why_not_frontal(scaled(rng.uniform(size=SIZE)))
    assert why_not_frontal(scaled(np.tile(np.linspace(0, 1, 128), (128, 1))))
    assert why_not_frontal(scaled(np.add.outer(np.sin(np.arange(128) / 9), np.cos(np.arange(128) / 7))))
    page = Image.new("L", (400, 400), 255)
    for y in range(10, 390, 14):
        ImageDraw.Draw(page).text((10, y), "the quick brown fox jumps over the lazy dog " * 2, fill=0)
    assert why_not_frontal(scaled(np.asarray(page)))


@pytest.mark.parametrize("folder", ["xray", "xray_lungs"])
def test_real_films_are_accepted(real_data, folder):
    films = [path for path in find_xrays(real_data / folder) if not path.stem.endswith("_lungs")]
    assert films and {p.name: r for p in films if (r := why_not_frontal(read_xray(p, (224, 224))))} == {}
