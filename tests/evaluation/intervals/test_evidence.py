"""The evidence map in worlds with a closed form: the X-ray determines nothing, all, or a part of the variance."""

import pytest
import torch

from dataset.imaging.hu_window import Window
from evaluation.intervals.evidence import FEWEST, TrainingSpread

SHAPE, SD = (32, 8, 8), 200.0
WINDOW = Window(-1000.0, 1000.0)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Patients:
    """Volumes of independent voxels N(0, SD²), beside a slab of air."""

    def __init__(self, count):
        self.volumes = SD * normal(count, *SHAPE, seed=1)
        self.volumes[:, :, :, 4:] = -1000.0

    def __len__(self):
        return len(self.volumes)

    def case(self, index):
        return {"ct": self.volumes[index]}


@pytest.fixture(scope="module")
def spread():
    return TrainingSpread.fit(Patients(150), WINDOW)


def posterior(share, samples=8, pairs=False):
    """Truth, samples and the posterior mean, where the X-ray determines a `share` (d,) of the variance of each slice.

    Of `x ~ N(0, SD²)` the X-ray shows x + e; the posterior is N(share (x + e), (1 - share) SD²).
    """
    share = share.view(-1, 1, 1)
    truth = SD * normal(*SHAPE, seed=2)
    mean = share * truth + SD * (share * (1.0 - share)).sqrt() * normal(*SHAPE, seed=3)
    noise = normal(samples, *SHAPE, seed=4)
    if pairs:
        noise[1::2] = -noise[::2]
    return truth, mean + SD * (1.0 - share).sqrt() * noise, mean


def test_the_spread_of_training_volumes_is_measured_by_cell(spread):
    cells = torch.tensor(spread.sd).reshape(spread.size)
    assert spread.size == [16, 8, 8] and spread.cases == 150
    assert cells[:, :, :4].square().mean().sqrt() == pytest.approx(SD, rel=0.01) and (cells[:, :, 4:] == 0).all()
    assert TrainingSpread.fit(Patients(FEWEST - 1), WINDOW) is None
    with pytest.raises(ValueError, match="damaged"):
        TrainingSpread([2, 2, 2], [1.0], 40)


@pytest.mark.parametrize("pairs", [False, True])
def test_an_xray_that_shows_nothing_determines_nothing_and_one_that_shows_all_determines_all(pairs):
    whole = TrainingSpread([1, 1, 1], [SD], 150)
    _, samples, _ = posterior(torch.zeros(32), pairs=pairs)
    assert whole.evidence(samples, pairs).max() < 0.05
    _, samples, _ = posterior(torch.ones(32), pairs=pairs)
    assert whole.evidence(samples, pairs).min() > 0.999


def test_the_error_is_the_share_that_is_not_determined():
    """The reliability law: squared error of the posterior mean = (1 - evidence) SD², within 5 points."""
    share = torch.tensor([0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 0.9, 0.98]).repeat_interleave(4)
    truth, samples, mean = posterior(share, samples=16)
    found = TrainingSpread([8, 1, 1], [SD] * 8, 150).evidence(samples, False)
    inside = found.reshape(8, 4, 8, 8)[:, 1:3].mean(dim=(1, 2, 3))  # between the centres of cells it is interpolated
    errors = (truth - mean).square().reshape(8, -1).mean(dim=1) / SD**2
    assert (inside - share[::4]).abs().max() < 0.1
    many = TrainingSpread([1, 1, 1], [SD], 150)
    for value in (0.2, 0.5, 0.8):
        truth, samples, mean = posterior(torch.full((32,), value), samples=16)
        determined, error = float(many.evidence(samples, False).mean()), float((truth - mean).square().mean()) / SD**2
        assert determined == pytest.approx(value, abs=0.03) and error == pytest.approx(1.0 - determined, abs=0.05)
    assert torch.corrcoef(torch.stack([inside, 1.0 - errors]))[0, 1] > 0.98


def test_air_is_not_called_determined_and_three_samples_give_no_map(spread):
    _, samples, _ = posterior(torch.ones(32))
    found = spread.evidence(samples, False)
    assert found[:, :, 4:].max() == 0.0 and found[:, :, :4].min() > 0.99
    with pytest.raises(ValueError, match="at least 4"):
        spread.evidence(samples[:3], False)
