"""A chest and a warped copy of it are brought into register, both ways, without folds."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from common.errors import UserError
from dataset.morph import registration
from dataset.morph.random_change import smooth_noise
from dataset.morph.registration import FIELD, GRID, register
from dataset.morph.velocity import exponential, identity, jacobian, resize, sample


@pytest.fixture(scope="module")
def chests():
    """A drawn chest on `GRID` and the same chest warped by up to a tenth of the box."""
    z, y, x = np.meshgrid(*[(np.arange(n) + 0.5) / n * 2 - 1 for n in GRID], indexing="ij")
    hu = np.where(y**2 / 0.7 + x**2 / 0.9 < 1, 40.0, -1000.0)
    for side in (-0.45, 0.5):
        hu[((x - side) / 0.32) ** 2 + (y / 0.6) ** 2 + (z / 0.75) ** 2 < 1] = -820.0
    hu[((x - 0.2) / 0.3) ** 2 + ((y + 0.3) / 0.3) ** 2 + ((z + 0.2) / 0.35) ** 2 < 1] = 150.0
    first = torch.from_numpy(gaussian_filter(hu, 1.0).astype(np.float32))
    way = exponential(smooth_noise(np.random.default_rng(0), 3, 4) * 0.04)
    return first, _warped(first, way)


def _warped(volume, displacement):
    return sample(volume[None], identity(GRID) + resize(displacement, GRID))[0]


def _difference(first, second):
    return float((first - second).abs().mean())


@pytest.mark.slow
def test_the_velocity_aligns_both_ways_and_folds_nowhere(chests, monkeypatch):
    monkeypatch.setattr(registration, "LEVELS", ((4, 8, 10), (2, 2, 8)))  # the finest level takes most of the time
    first, second = chests
    velocity = register(first, second, "a and b")
    before = _difference(first, second)
    assert velocity.shape == (3, *FIELD)
    assert before > 40
    assert _difference(first, _warped(second, exponential(velocity))) < 0.35 * before
    assert _difference(second, _warped(first, exponential(-velocity))) < 0.35 * before
    assert min(float(jacobian(exponential(way * velocity)).min()) for way in (-1.0, 0.5, 1.0, 1.2)) > 0


def test_a_registration_that_folds_is_refused(chests, monkeypatch):
    z = torch.arange(FIELD[0]).view(1, -1, 1, 1)
    folding = torch.where(z % 8 < 4, 0.5, -0.5).expand(3, *FIELD)
    monkeypatch.setattr(registration, "_smooth", lambda velocity: folding)
    monkeypatch.setattr(registration, "LEVELS", ((4, 1, 1),))
    with pytest.raises(UserError, match="a and b: the registration folds"):
        register(*chests, "a and b")
