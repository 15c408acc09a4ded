"""Baselines on synthetic data with known solutions."""

import pytest
import torch
from evaluation_fakes import FakeCases, linear_world

from dataset.imaging.hu_window import Window
from evaluation.scoring.baselines import Baselines, RidgeToComponents, gram_row, nearest_weights, xray_features

WINDOW = Window(-1000.0, 1000.0)


@pytest.fixture(scope="module")
def world():
    """Volumes that are a linear function of their X-rays: 60 training, 12 validation and 8 test cases."""
    return linear_world(60, seed=0), linear_world(12, seed=1), linear_world(8, seed=2)


def xrays_of(cases: FakeCases) -> torch.Tensor:
    return torch.stack([cases.case(i)["xray"].float().unsqueeze(1) for i in range(len(cases))])


def truth_of(cases: FakeCases) -> torch.Tensor:
    return torch.stack([cases.case(i)["ct"].float() for i in range(len(cases))])


def test_ridge_recovers_a_linear_world(world):
    train, val, test = world
    baselines = Baselines(train, val, WINDOW)
    volumes = baselines.predict(xrays_of(test))
    error = {name: (volume - truth_of(test)).square().mean() for name, volume in volumes.items()}
    assert error["ridge"] < 0.02 * error["mean_volume"]
    assert error["ridge"] < 0.1 * error["nearest"]
    assert baselines.describe()["training_cases"] == 60


def test_mean_volume_is_the_mean(world):
    train, val, test = world
    volumes = Baselines(train, val, WINDOW).predict(xrays_of(test))
    assert torch.allclose(volumes["mean_volume"][3], truth_of(train).mean(dim=0), atol=1e-2)


def test_nearest_is_the_training_case_itself(world):
    train, val, _ = world
    volumes = Baselines(train, val, WINDOW).predict(xrays_of(train))
    assert torch.allclose(volumes["nearest"], truth_of(train), atol=1e-3)
    shifted = nearest_weights(torch.tensor([[0.9, 0.1]]), torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    assert shifted.tolist() == [[0.0, 1.0, 0.0]]


def test_dual_ridge_equals_the_primal_one():
    generator = torch.Generator().manual_seed(0)
    features, volumes = torch.randn(30, 6, generator=generator), torch.randn(30, 50, generator=generator)
    new = torch.randn(4, 6, generator=generator)
    ridge = RidgeToComponents(penalties=(0.5,), components=(5,)).fit(features, volumes, features[:5], volumes[:5])
    ours = ridge.weights(new).double() @ volumes.double()

    mean, std = features.mean(0), features.std(0, correction=0)
    z, z_new = ((features - mean) / std).double(), ((new - mean) / std).double()
    centred = (volumes - volumes.mean(0)).double()
    components = torch.linalg.svd(centred, full_matrices=False).Vh[:5]
    penalty = 0.5 * torch.linalg.eigvalsh(z @ z.T).mean()
    coefficients = torch.linalg.solve(z.T @ z + penalty * torch.eye(6), z.T @ (centred @ components.T))
    expected = volumes.mean(0) + z_new @ coefficients @ components
    assert torch.allclose(ours, expected, atol=1e-4)


def test_validation_selects_a_strong_penalty_for_noise_and_a_weak_one_for_signal():
    generator = torch.Generator().manual_seed(0)
    features, val = torch.randn(40, 20, generator=generator), torch.randn(400, 20, generator=generator)
    noise = torch.randn(440, 30, generator=generator)  # volumes that X-rays say nothing about
    ridge = RidgeToComponents().fit(features, noise[:40], val, noise[40:])
    assert ridge.penalty == max(ridge.penalties)
    signal = torch.randn(20, 30, generator=generator)
    ridge = RidgeToComponents().fit(features, features @ signal, val, val @ signal)
    assert ridge.penalty == min(ridge.penalties)


def test_one_training_case_is_every_prediction():
    train = linear_world(1, seed=0)
    volumes = Baselines(train, train, WINDOW).predict(xrays_of(linear_world(2, seed=1)))
    for volume in volumes.values():
        assert torch.allclose(volume, truth_of(train).expand_as(volume), atol=1e-2)


def test_large_volumes_are_pooled_for_the_components():
    volume = torch.arange(64.0**3).view(64, 64, 64)
    row = gram_row(volume)
    assert row.shape == (32**3,)
    assert row[0] == volume[:2, :2, :2].mean()
    assert xray_features(torch.ones(2, 3, 1, 64, 64)).shape == (2, 3 * 32 * 32)


def test_unknown_pixels_take_no_part():
    train = torch.rand(6, 1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    query = train[2:4].clone()
    query[..., :20, :] = torch.nan
    assert nearest_weights(query.flatten(1), train.flatten(1)).argmax(dim=1).tolist() == [2, 3]
    holes = train.clone()
    holes[::2, ..., 40:] = torch.nan
    assert nearest_weights(train.flatten(1), holes.flatten(1)).argmax(dim=1).tolist() == list(range(6))
    volumes, targets = torch.randn(6, 30), torch.randn(2, 30)
    fitted = RidgeToComponents().fit(xray_features(holes), volumes, xray_features(train[:2]), targets)
    weights = fitted.weights(xray_features(query))
    assert weights.isfinite().all() and torch.allclose(weights.sum(dim=1), torch.ones(2), atol=1e-4)
    mean = fitted.weights(xray_features(torch.full_like(query, torch.nan)))
    torch.testing.assert_close(mean, torch.full_like(mean, 1 / 6))
