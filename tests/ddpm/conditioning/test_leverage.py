"""The deviation of the linear prior grows with the leverage of the X-ray as errors of a linear Gaussian world."""

import math

import pytest
import torch

from ddpm.conditioning.linear_prior import LinearPrior
from ddpm.conditioning.ridge import RidgeSystem, packed_length, packed_root, root_squares

SHAPE, NOISE = (2, 4, 4, 4), 0.5
OPTIONS = {"pixels": 4, "rank": 64, "deviation": True}


def world(n: int, seed: int = 0, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """X-rays of heavy tails and latents that are linear in them with Gaussian noise; one world for all seeds."""
    mixing = torch.randn(16, 128, generator=torch.Generator().manual_seed(99)) / 4
    generator = torch.Generator().manual_seed(seed)
    size = torch.randn(n, 1, generator=generator).mul(0.8).exp()
    pixels = scale * size * torch.randn(n, 16, generator=generator)
    latents = pixels @ mixing + NOISE * torch.randn(n, 128, generator=generator)
    return pixels.view(n, 1, 1, 4, 4), latents.view(n, *SHAPE)


@pytest.fixture(scope="module")
def cases() -> tuple[torch.Tensor, torch.Tensor]:
    return world(48)


@pytest.fixture(scope="module")
def prior(cases) -> LinearPrior:
    return LinearPrior(SHAPE, **OPTIONS, by_leverage=True).fit(*cases)


def exact(z: torch.Tensor, others: torch.Tensor, penalty: float) -> torch.Tensor:
    """The leverage of a row beside other rows, with an intercept that is not penalised."""
    z, others = (torch.cat([torch.ones(len(part), 1), part], dim=1).double() for part in (z, others))
    ridge = penalty * torch.eye(others.shape[1], dtype=torch.float64)
    ridge[0, 0] = 0.0
    return (z @ torch.linalg.inv(others.T @ others + ridge) * z).sum(dim=1)


@pytest.mark.parametrize("features", [1, 6, 7])
def test_a_packed_root_gives_the_quadratic_form(features):
    z = torch.randn(9, features, dtype=torch.float64)
    packed, scale = packed_root(RidgeSystem(z.T @ z), 0.1)
    assert packed.shape == (packed_length(features),) and packed.abs().max() <= 1.0
    inverse = torch.linalg.inv(z.T @ z + torch.eye(features, dtype=torch.float64) / scale)
    found = scale * root_squares(packed, z.float())
    torch.testing.assert_close(found, (z @ inverse * z).sum(dim=1).float(), rtol=1e-4, atol=0)


def test_a_left_out_case_has_the_leverage_of_the_regression_without_its_patient(cases):
    xrays, latents = cases
    patients = [max(i, 3) % 44 for i in range(48)]  # some of several cases
    prior = LinearPrior(SHAPE, **OPTIONS, by_leverage=True).fit(xrays, latents, patients)
    z, penalty = prior._features(xrays), float(1 / prior.leverage_terms[0])
    torch.testing.assert_close(prior._leverage(z, None, None).double(), exact(z, z, penalty), rtol=2e-3, atol=1e-4)
    for image in (xrays, 0.7 * xrays + 0.1):  # also where the X-ray was altered since
        found = prior._leverage(*prior._placed(image, torch.arange(48)))
        for i in (0, 2, 3, 44, 20):
            rest = [j for j in range(48) if patients[j] != patients[i]]
            expected = exact(prior._features(image[i : i + 1]), z[rest], penalty)
            torch.testing.assert_close(found[i : i + 1].double(), expected, rtol=5e-3, atol=1e-4)


def test_the_squared_factor_is_1_on_average_over_left_out_cases(cases, prior):
    std = prior.moments(cases[0], torch.arange(48))[1]
    torch.testing.assert_close((std / prior.std).square().mean(dim=0), torch.ones(SHAPE))
    assert std.flatten(1).mean(dim=1).max() > 1.3 * std.flatten(1).mean(dim=1).min()


def test_new_and_left_out_errors_have_the_predicted_variance_at_every_leverage():
    """Variances of four groups of leverage, pooled over worlds, each within 10 % and far from a constant one."""
    predicted, missed = [], []
    for seed in range(12):
        xrays, latents = world(48, seed)
        prior = LinearPrior(SHAPE, **OPTIONS, by_leverage=True).fit(xrays, latents)
        prior.radius.fill_(math.inf)  # the law is that of a regression without shrinking
        prior.measure_deviation(xrays, latents)
        for images, targets, rows in ((xrays, latents, torch.arange(48)), (*world(48, 1000 + seed, 1.2), None)):
            mean, std = prior.moments(images, rows)
            predicted.append(std.square().flatten(1).mean(dim=1))
            missed.append((targets - mean).square().flatten(1).mean(dim=1))
    for part in (slice(0, None, 2), slice(1, None, 2)):  # left out, new
        expected, found = torch.cat(predicted[part]), torch.cat(missed[part])
        groups = expected.argsort().chunk(4)
        for group in groups:
            assert found[group].mean() == pytest.approx(expected[group].mean().item(), rel=0.1)
        assert found[groups[3]].mean() > 1.5 * found[groups[0]].mean()


def test_the_deviation_grows_without_bound_along_a_ray_from_the_training_mean(cases, prior):
    middle = prior.pixel_mean.view(1, 1, 4, 4)
    lengths = torch.tensor([0.0, 0.5, 1.0, 2.0, 4.0, 12.0, 100.0]).view(-1, 1, 1, 1, 1)
    for xray in cases[0][:4]:
        mean, std = prior.moments(middle + lengths * (xray - middle))
        sizes = std.flatten(1).mean(dim=1)
        assert (sizes.diff() > 0).all() and sizes[-1] > 5 * sizes[-2]
        torch.testing.assert_close(mean[-1], mean[-2])  # where its scores are shrunk


def test_a_file_keeps_the_leverage_in_half_precision(cases, prior, tmp_path):
    prior.save_pretrained(tmp_path)
    again = LinearPrior.from_pretrained(tmp_path)
    for found, expected in zip(again.moments(cases[0]), prior.moments(cases[0]), strict=True):
        assert torch.equal(found, expected)
    assert prior.leverage_root.nbytes == 2 * 16 * 17 // 2
    assert not any(name.startswith("leverage") for name in LinearPrior(SHAPE, by_leverage=True).state_dict())


def test_a_file_or_run_of_an_earlier_version_keeps_one_deviation_for_all_xrays(cases, prior, tmp_path):
    old = LinearPrior(SHAPE, **OPTIONS).fit(*cases)  # the configuration of a file of an earlier version lacks the key
    resumed = LinearPrior(SHAPE, **OPTIONS, by_leverage=True).fit(*cases)
    resumed.load_state_dict(old.state_dict())
    resumed.save_pretrained(tmp_path)
    for found in (old, resumed, LinearPrior.from_pretrained(tmp_path)):
        assert torch.equal(found.moments(cases[0])[1], old.deviation(cases[1]))
        assert found.state_dict().keys() == old.state_dict().keys() and not found.config.by_leverage
    assert torch.equal(resumed.moments(cases[0], torch.arange(48))[1], old.deviation(cases[1]))
    torch.testing.assert_close(prior.deviation(cases[1]), old.deviation(cases[1]))
    for name in ("leverage_root", "leverage_terms"):
        part = {key: value for key, value in prior.state_dict().items() if key != name}
        with pytest.raises(RuntimeError, match="leverage_"):
            LinearPrior(SHAPE, **OPTIONS, by_leverage=True).load_state_dict(part)


def test_a_hidden_prior_has_a_deviation_of_1(cases):
    prior = LinearPrior(SHAPE, **OPTIONS, by_leverage=True).fit(*cases)
    prior.hide(True)
    assert torch.equal(prior.moments(cases[0])[1], torch.ones_like(cases[1]))
