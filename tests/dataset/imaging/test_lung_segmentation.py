"""The lung mask covers the lungs of phantoms and real chests, without trachea, table, bowel or air."""

import time

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt, gaussian_filter

from dataset.imaging.lung_segmentation import segment_lungs, within
from dataset.imaging.resampling import resample
from dataset.io.ct import read_volume
from dataset.phantom.render import LABELS, render_phantom


def dice(a, b):
    return 2.0 * (a & b).sum() / (a.sum() + b.sum())


def ball(shape, spacing, centre, radii):
    axes = [(np.arange(n) + 0.5) * s - n * s / 2 for n, s in zip(shape, spacing, strict=True)]
    grid = np.meshgrid(*axes, indexing="ij")
    return sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radii, strict=True)) < 1


def chest(shape=(64, 64, 64), spacing=(4.0, 4.0, 5.0)):
    """A body with two lungs of known shape; volume and mask."""
    hu = np.full(shape, -1000.0, dtype=np.float32)
    hu[ball(shape, spacing, (0, 0, 0), (1e6, 105, 145))] = 40
    lungs = ball(shape, spacing, (0, 0, -70), (100, 70, 45)) | ball(shape, spacing, (0, 0, 75), (95, 65, 40))
    hu[lungs] = -830
    return hu, lungs, spacing


@pytest.mark.parametrize(("shape", "spacing"), [((64, 64, 64), (4.0, 4.0, 5.0)), ((100, 120, 160), (2.5, 2.1, 2.0))])
@pytest.mark.parametrize("blur_mm", [0.0, 6.0])
def test_known_lungs_are_found_at_any_spacing_sharp_and_blurred(shape, spacing, blur_mm):
    hu, lungs, spacing = chest(shape, spacing)
    hu = gaussian_filter(hu, [blur_mm / s for s in spacing])
    assert dice(segment_lungs(hu, spacing), lungs) > 0.96


def test_trachea_table_and_bowel_gas_are_left_out():
    hu, lungs, spacing = chest()
    shape = hu.shape
    trachea = ball(shape, spacing, (90, 0, 5), (70, 10, 10))
    bowel = ball(shape, spacing, (-110, -60, 60), (14, 30, 60)) & ~ball(shape, spacing, (0, 0, 75), (105, 75, 50))
    hu[trachea | bowel] = -1000
    table = np.zeros(shape, dtype=bool)
    table[:, 60:62, 8:56] = table[:, 52:62, [8, 55]] = True  # a trough that closes on the back and holds air
    hu[table & (hu < -500)] = -100
    mask = segment_lungs(hu, spacing)
    assert dice(mask, lungs) > 0.96
    assert not mask[trachea].any() and not mask[bowel].any() and not mask[:, 54:].any()


def test_a_trachea_that_opens_into_both_lungs_is_cut_off():
    hu, lungs, spacing = chest()
    trachea = ball(hu.shape, spacing, (90, 0, 5), (70, 10, 10))
    bronchi = ball(hu.shape, spacing, (25, 0, 0), (7, 7, 90))
    hu[trachea | bronchi] = -930
    mask = segment_lungs(hu, spacing)
    assert not mask[40:][trachea[40:] & ~lungs[40:]].any()
    assert dice(mask, lungs) > 0.95


def test_vessels_inside_the_lung_belong_to_it_and_a_large_mass_does_not():
    hu, lungs, spacing = chest((100, 100, 120), (2.5, 2.5, 2.5))
    vessel = ball(hu.shape, spacing, (0, 0, -70), (60, 4, 4))
    mass = ball(hu.shape, spacing, (10, 20, 70), (22, 22, 22))
    hu[vessel | mass] = 50
    mask = segment_lungs(hu, spacing)
    assert mask[vessel].mean() > 0.95
    # a mass that the lung encloses is a hole and is filled; one at its wall stays out
    wall = ball(hu.shape, spacing, (0, 60, -70), (25, 25, 25))
    hu[wall & lungs] = 50
    assert segment_lungs(hu, spacing)[ball(hu.shape, spacing, (0, 60, -70), (12, 12, 12))].mean() < 0.1


def test_one_lung_of_two_may_be_missing():
    hu, lungs, spacing = chest()
    hu[:, :, 32:] = np.maximum(hu[:, :, 32:], 0)
    left_out = lungs.copy()
    left_out[:, :, 32:] = False
    hu[ball(hu.shape, spacing, (-70, 0, 70), (40, 50, 40))] = -1000  # a stomach full of gas is no second lung
    assert dice(segment_lungs(hu, spacing), left_out) > 0.95


@pytest.mark.parametrize("value", [-1000.0, 40.0])
def test_a_volume_without_lungs_gives_an_empty_mask(value):
    mask = segment_lungs(np.full((16, 16, 16), value, dtype=np.float32), (5.0, 5.0, 5.0))
    assert mask.dtype == bool and mask.shape == (16, 16, 16) and not mask.any()


def test_a_window_that_clips_the_lungs_gives_an_empty_mask():
    hu, _, spacing = chest()
    assert not segment_lungs(hu.clip(-200, 500), spacing).any()


@pytest.mark.parametrize("blur", [0.0, 0.8])
def test_phantoms(blur):
    """Aerated lung is found, opacities as dense as soft tissue are not; nothing else is taken but small vessels."""
    for index in range(4):
        phantom = render_phantom(index)
        mask = segment_lungs(gaussian_filter(phantom.hu, blur), phantom.spacing)
        lungs = phantom.labels == LABELS["lungs"]
        assert mask[lungs & (phantom.hu < -500)].mean() > 0.93
        assert (lungs | (phantom.labels == LABELS["vessels"]))[mask].mean() > 0.95


def test_speed():
    phantom = render_phantom(0)
    segment_lungs(phantom.hu, phantom.spacing)
    start = time.process_time()
    segment_lungs(phantom.hu, phantom.spacing)
    assert time.process_time() - start < 0.3


def test_real_chests(real_data):
    expected_ml = {"cip": (4300, 5100), "lidc": (3500, 4100), "rider-lung": (4400, 5100), "lung-pet": (2400, 3000)}
    for name, (low, high) in expected_ml.items():
        volume = read_volume(next((real_data / "ct").glob(f"{name}*")))
        small = resample(volume, (64, 64, 64))
        mask = segment_lungs(small.hu, small.spacing)
        assert low < mask.sum() * np.prod(small.spacing) / 1000 < high
        halves = mask[:, :, :32].sum() / mask.sum()
        assert 0.4 < halves < 0.65  # two lungs
        assert not mask[:, :3].any() and not mask[:, -3:].any()
        blurred = segment_lungs(gaussian_filter(small.hu, 1.0), small.spacing)
        assert dice(mask, blurred) > 0.95


@pytest.mark.parametrize("spacing", [(3.1, 2.3, 1.7), (9.0, 1.1, 2.9), (np.inf, 2.3, 1.7)])
def test_within_is_the_euclidean_distance(spacing):
    mask = np.random.default_rng(0).random((9, 21, 24)) > 0.995
    mask[4] = False
    if np.isinf(spacing[0]):  # in each axial slice alone
        planes = [distance_transform_edt(~one, sampling=spacing[1:]) if one.any() else 1e9 * ~one for one in mask]
        expected = np.stack(planes)
    else:
        expected = distance_transform_edt(~mask, sampling=spacing)
    for radius in (0.5, 2.5, 7.3):
        np.testing.assert_array_equal(within(mask, radius, spacing), expected <= radius)
