"""Resampling keeps positions in mm, returns the right geometry and does not alias."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch.nn import functional as F

from dataset.imaging.resampling import downsample, resample, resample_onto
from dataset.imaging.volume import Volume

SIZE, SPACING, CENTRE = (40, 50, 60), (2.5, 0.8, 0.7), (10.0, -20.0, 30.0)


def positions(volume):
    """RAS mm of every voxel `(3, D, H, W)`: D grows upward, H backward, W leftward."""
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(volume.hu.shape, volume.spacing, strict=True)]
    d, h, w = np.meshgrid(*axes, indexing="ij")
    right, front, up = volume.centre
    return np.stack([right - w, front - h, up + d])


def ramp(world):
    """A volume whose HU is its own coordinate along one world axis."""
    volume = Volume(np.zeros(SIZE, dtype=np.float32), SPACING, CENTRE)
    return Volume(positions(volume)[world].astype(np.float32), SPACING, CENTRE)


GRIDS = [
    ((16, 16, 16), None),
    ((55, 64, 70), None),
    ((12, 12, 12), (3.3, 1.5, 1.7)),
    ((20, 20, 30), (1.0, 1.0, 1.0)),
    ((96, 96, 96), (1.2, 0.9, 1.1)),
]


@pytest.mark.parametrize(("size", "spacing"), GRIDS)
@pytest.mark.parametrize("world", [0, 1, 2])
def test_positions_in_mm_are_preserved(world, size, spacing):
    made = resample(ramp(world), size, spacing)
    assert made.hu.shape == size
    if spacing is not None:
        np.testing.assert_allclose(made.spacing, spacing, atol=1e-5)
    else:
        np.testing.assert_allclose(made.extent, ramp(0).extent, atol=1e-3)
        np.testing.assert_allclose(made.centre, CENTRE, atol=1e-3)
    where = positions(made)
    reach = np.array([0.3 * n * s for n, s in zip(SIZE, SPACING, strict=True)])[[2, 1, 0], None, None, None]
    inside = (np.abs(where - np.array(CENTRE)[:, None, None, None]) < reach).all(axis=0)
    assert inside.sum() > 20
    np.testing.assert_allclose(made.hu[inside], where[world][inside], atol=0.02)


def test_padding_is_air():
    made = resample(Volume(np.full((10, 10, 10), 40, np.float32), (2.0, 2.0, 2.0)), (20, 20, 20), (2.0, 2.0, 2.0))
    assert made.hu[0].max() == -1024 and made.hu[10, 10, 10] == 40
    assert (made.hu == 40).sum() == 1000


@pytest.mark.parametrize("step", [1.1, 3.0, 6.0])
def test_a_full_volume_stays_full_at_any_spacing(step):
    full = Volume(np.full((80, 40, 53), 40, np.float32), (2.0, 3.1, 2.7), CENTRE)
    size = tuple(round(e / step) for e in full.extent)
    assert resample(full, size, (step, step, step)).hu.min() == pytest.approx(40, abs=1e-3)


@pytest.mark.parametrize("spacing", [None, (4.0, 4.0, 4.0)])
def test_shrinking_averages_instead_of_aliasing(spacing):
    checks = (np.indices((64, 64, 64)).sum(axis=0) % 2 * 2000.0 - 1000.0).astype(np.float32)
    made = resample(Volume(checks, (1.0, 1.0, 1.0)), (16, 16, 16), spacing)
    assert np.abs(made.hu[2:-2, 2:-2, 2:-2]).max() < 20


@pytest.mark.parametrize("size", [(10, 25, 15), (40, 64, 31), (7, 50, 90)])
def test_resizing_is_the_anti_aliasing_filter_and_trilinear_interpolation(size):
    hu = np.random.default_rng(0).normal(0.0, 300.0, SIZE).astype(np.float32)
    sigma = [max(0.0, (n / m - 1.0) / 2.0) for n, m in zip(SIZE, size, strict=True)]
    filtered = torch.from_numpy(gaussian_filter(hu, sigma, mode="nearest", truncate=3.0))
    expected = F.interpolate(filtered[None, None], size=size, mode="trilinear", align_corners=False)[0, 0]
    np.testing.assert_allclose(resample(Volume(hu, SPACING), size).hu, expected, atol=5e-3)


def test_resizing_keeps_air_and_makes_nothing_darker():
    hu = np.random.default_rng(0).choice([-1024.0, 40.0], size=SIZE).astype(np.float32)
    hu[:20] = -1024.0
    made = resample(Volume(hu, SPACING), (13, 21, 33)).hu
    assert made.min() == -1024.0 and (made[:5] == -1024.0).all() and made[8:].max() < 40.1


def test_same_grid_changes_nothing():
    hu = np.random.default_rng(0).normal(size=(8, 9, 10)).astype(np.float32)
    made = resample(Volume(hu, (2.0, 1.0, 1.5), CENTRE), (8, 9, 10))
    np.testing.assert_allclose(made.hu, hu, atol=1e-4)


def test_downsampling_keeps_extent_and_mean():
    volume = Volume(np.random.default_rng(0).normal(size=(30, 64, 62)).astype(np.float32), (2.5, 0.7, 0.7), CENTRE)
    made = downsample(volume, 1.5)
    assert made.hu.shape == (30, 32, 31)
    np.testing.assert_allclose(made.extent, volume.extent)
    np.testing.assert_allclose(made.hu.mean(), volume.hu.mean(), atol=1e-5)
    assert downsample(volume, 0.5) is volume


def test_another_volume_is_sampled_in_world_coordinates():
    z, y, x = np.meshgrid(*[np.arange(n, dtype=np.float32) for n in (20, 24, 28)], indexing="ij")
    source = Volume((10 * z + 3 * y - 5 * x).astype(np.float32), (4.0, 3.0, 2.0), (10.0, -5.0, 100.0))
    frame = Volume(np.zeros((6, 8, 10), dtype=np.float32), (5.0, 4.0, 3.0), (12.0, -2.0, 96.0))
    found = resample_onto(source, frame, (12, 8, 10))
    # world coordinates of the new grid, RAS: up grows with d, back with h, left with w
    up = 96.0 + (np.arange(12) - 5.5) * 2.5
    front, right = -2.0 - (np.arange(8) - 3.5) * 4.0, 12.0 - (np.arange(10) - 4.5) * 3.0
    d, h, w = (up - 100.0) / 4 + 9.5, (-5.0 - front) / 3 + 11.5, (10.0 - right) / 2 + 13.5
    expected = 10 * d[:, None, None] + 3 * h[:, None] - 5 * w
    np.testing.assert_allclose(found, expected, atol=0.05)


def test_outside_of_the_other_volume_is_air():
    source = Volume(np.zeros((8, 8, 8), dtype=np.float32), (2.0, 2.0, 2.0))
    frame = Volume(np.zeros((8, 8, 8), dtype=np.float32), (4.0, 4.0, 4.0))
    found = resample_onto(source, frame, (16, 16, 16))
    assert found[0, 0, 0] == -1024 and found[8, 8, 8] == 0
