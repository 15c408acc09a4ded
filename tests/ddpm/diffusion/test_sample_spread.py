"""The spread of samples: for every sampler, whatever their number, that of the exact recursion."""

from pathlib import Path

import numpy as np
import pytest
import torch
from exact_recursions import SDE, exact_samples, exact_std
from omegaconf import OmegaConf

from ddpm.diffusion.sample_spread import (
    root_mean_square,
    sample_spread,
    sample_variance,
    squared_deviations,
    variance_of_estimate,
)

CONFIGS = sorted((Path(__file__).parents[3] / "config" / "sampler").glob("*.yaml"))
CONFIGS = [path for path in CONFIGS if path.stem != "fast"]  # the solver of that one stands in the model
S = 0.5  # standard deviation of the data


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_spread_of_every_sampler_is_that_of_its_exact_recursion(path):
    setting = OmegaConf.to_container(OmegaConf.load(path))
    setting.pop("guidance_scale")
    name, steps, paired = (setting.pop(key) for key in ("scheduler", "steps", "antithetic"))
    prediction = "flow" if name == "FlowMatchEulerDiscreteScheduler" else "sample"
    expected = exact_std(name, steps, S, prediction, **setting)
    side = 14 if steps > 100 else 26
    samples = exact_samples(name, steps, S, prediction, 8, paired, side=side, **setting)
    for count in (2, 4, 8):
        found = root_mean_square(sample_spread(samples[:count], paired))
        assert found == pytest.approx(expected, rel=0.03), count
    assert paired == (name != "DDPMScheduler")


@pytest.mark.parametrize("steps", [4, 12, 20])
@pytest.mark.parametrize("s", [0.3, S, 1.0])
@pytest.mark.parametrize(
    "options", [{"spacing": "trailing"}, {"spacing": "log_snr"}, SDE], ids=["trailing", "log_snr", "sde"]
)
def test_the_spread_of_a_flow_is_that_of_the_exact_recursion_of_dpm_solver(steps, s, options):
    """The default target with `sampler=default` (trailing), its other spacing and `sampler=sde`."""
    name = "DPMSolverMultistepScheduler"
    expected = exact_std(name, steps, s, "flow", **options)
    samples = exact_samples(name, steps, s, "flow", 8, antithetic=True, side=26, **options)
    for count in (2, 4, 8):
        assert root_mean_square(sample_spread(samples[:count], True)) == pytest.approx(expected, rel=0.03), count


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "DDIMScheduler"])
def test_independent_samples_have_the_same_spread(name):
    samples, expected = exact_samples(name, 12, S, count=8, side=26), exact_std(name, 12, S)
    for count in (2, 3, 4, 8):
        assert root_mean_square(sample_spread(samples[:count], False)) == pytest.approx(expected, rel=0.03)
    old = [root_mean_square(samples[:count].std(dim=0, correction=0)) / expected for count in (2, 4, 8)]
    assert old == pytest.approx([0.707, 0.866, 0.935], abs=0.01)  # the divisor s is too small for independent samples


@pytest.mark.parametrize("correlation", [-1.0, -0.6, 0.0, 0.5])
@pytest.mark.parametrize("count", [3, 4, 8])
def test_no_correlation_within_pairs_causes_a_bias(correlation, count):
    generator = torch.Generator().manual_seed(0)
    first, other = torch.randn(2, count, 60_000, generator=generator)
    samples = first.clone()
    for odd in range(1, count, 2):
        samples[odd] = correlation * first[odd - 1] + (1.0 - correlation**2) ** 0.5 * other[odd]
    assert float(sample_variance(7.0 + 3.0 * samples, True).mean()) == pytest.approx(9.0, rel=0.02)


def test_the_variance_is_that_of_all_independent_differences():
    samples = torch.randn(5, 40, generator=torch.Generator().manual_seed(1)).double()
    pairs = [(i, j) for i in range(5) for j in range(i) if (j, i) not in ((0, 1), (2, 3))]
    expected = sum((samples[i] - samples[j]) ** 2 for i, j in pairs) / (2 * len(pairs))
    torch.testing.assert_close(sample_variance(samples, True), expected)
    torch.testing.assert_close(sample_variance(samples, False), samples.var(dim=0))


def test_opposite_pairs_give_the_mean_of_their_squared_errors():
    errors = torch.randn(3, 50, generator=torch.Generator().manual_seed(2)).double()
    samples = 5.0 + torch.stack([errors, -errors], dim=1).flatten(0, 1)
    torch.testing.assert_close(sample_variance(samples, True), errors.square().mean(dim=0))
    torch.testing.assert_close(sample_spread(samples[:2], True), errors[0].abs())


def test_shift_scale_and_order_of_pairs():
    samples = torch.randn(6, 30, generator=torch.Generator().manual_seed(3))
    found = sample_spread(samples, True)
    torch.testing.assert_close(sample_spread(-4.0 * samples + 100.0, True), 4.0 * found, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(sample_spread(samples[[4, 5, 1, 0, 2, 3]], True), found)


def test_equal_samples_have_no_spread_and_one_sample_is_refused():
    assert float(sample_spread(torch.full((4, 9), 1234.5), True).max()) == 0.0
    with pytest.raises(ValueError, match="at least 2"):
        sample_spread(torch.zeros(1, 3), False)
    assert root_mean_square(np.array([3.0, 4.0])) == pytest.approx(12.5**0.5)


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("count", [4, 8, 20])
def test_the_noise_of_a_variance_is_that_of_repetitions(antithetic, count):
    """Over 20,000 sets of samples the variance of their estimates is the mean of `variance_of_estimate`."""
    samples = torch.randn(count, 20_000, generator=torch.Generator().manual_seed(3))
    if antithetic:
        samples[1::2] = -samples[::2]
    estimated = variance_of_estimate(squared_deviations(samples, antithetic), antithetic).mean()
    assert float(estimated) == pytest.approx(float(sample_variance(samples, antithetic).var()), rel=0.1)
