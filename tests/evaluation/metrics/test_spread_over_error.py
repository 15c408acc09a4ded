"""Spread over error is 1 where the truth is distributed as the samples, whatever their number and pairing."""

import numpy as np
import pandas as pd
import pytest
import torch

from evaluation.metrics.spread_over_error import covered_share, spread_and_error
from evaluation.scoring.pooled import pooled_estimate


def draw(cases: int, count: int, correlation: float, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples and truths around hidden means, 200 voxels; `correlation` within pairs; scaled spread of the samples."""
    generator = torch.Generator().manual_seed(0)
    mean = 100.0 * torch.randn(cases, 1, 200, generator=generator)
    first, other = torch.randn(2, cases, count, 200, generator=generator)
    for odd in range(1, count, 2):
        first[:, odd] = correlation * first[:, odd - 1] + (1.0 - correlation**2) ** 0.5 * other[:, odd]
    truth = mean[:, 0] + 40.0 * torch.randn(cases, 200, generator=generator)
    return mean + 40.0 * scale * first, truth


@pytest.mark.parametrize(
    ("count", "correlation", "antithetic"),
    [(2, 0.0, False), (5, 0.0, False), (8, 0.0, False), (2, -1.0, True), (3, -0.8, True), (8, -0.8, True)],
)
@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_the_ratio_is_that_of_the_spreads(count, correlation, antithetic, scale):
    samples, truths = draw(300, count, correlation, scale)
    found = np.array([spread_and_error(x, y, antithetic) for x, y in zip(samples, truths, strict=True)])
    spread, error = np.sqrt((found**2).mean(axis=0))
    assert spread == pytest.approx(40.0 * scale, rel=0.02) and error == pytest.approx(40.0, rel=0.02)


@pytest.mark.parametrize(
    ("count", "correlation", "antithetic"),
    [(2, 0.0, False), (5, 0.0, False), (64, 0.0, False), (4, -1.0, True), (8, -0.8, True), (8, -0.5, True)],
)
@pytest.mark.parametrize("level", [0.9, 0.5])
def test_the_interval_covers_its_level_of_like_truths(count, correlation, antithetic, level):
    samples, truths = draw(300, count, correlation)
    found = [covered_share(x, y, antithetic, level) for x, y in zip(samples, truths, strict=True)]
    assert np.mean(found) == pytest.approx(level, abs=0.01)


def test_narrow_samples_cover_less():
    narrow, truths = draw(100, 64, 0.0, scale=0.5)
    assert np.mean([covered_share(x, y) for x, y in zip(narrow, truths, strict=True)]) == pytest.approx(0.59, abs=0.02)


@pytest.mark.parametrize(("count", "antithetic"), [(1, False), (2, True)])
def test_one_independent_sample_has_no_interval(count, antithetic):
    samples, truths = draw(1, count, -1.0 if antithetic else 0.0)
    with pytest.raises(ValueError, match="two independent samples"):
        covered_share(samples[0], truths[0], antithetic)


def test_cases_are_pooled_by_root_mean_squares():
    rows = pd.DataFrame({"spread_hu_body": [30.0, 40.0, np.nan], "spread_over_error": [0.5, 2.0, np.nan]})
    patients = np.array(["a", "b", "c"])
    ratio, spread = (pooled_estimate(rows, name, patients) for name in ("spread_over_error", "spread_hu_body"))
    assert ratio.mean == pytest.approx(np.sqrt((30**2 + 40**2) / (60**2 + 20**2)))
    assert spread.mean == pytest.approx(np.sqrt((30**2 + 40**2) / 2))
    assert pooled_estimate(rows.drop(columns="spread_hu_body"), "spread_over_error", patients).mean is None


def test_a_mean_of_ratios_would_be_too_large():
    """Errors of cases differ although all are calibrated: E[1 / error] is above 1 / E[error]."""
    generator = np.random.default_rng(0)
    error = 40.0 * np.sqrt(generator.chisquare(5, 4000) / 5)  # five degrees of freedom: errors of low frequency
    rows = pd.DataFrame({"spread_hu_body": 40.0, "spread_over_error": 40.0 / error})
    assert rows.spread_over_error.mean() > 1.1
    found = pooled_estimate(rows, "spread_over_error", np.arange(4000))
    assert found.mean == pytest.approx(1.0, abs=0.02) and found.low < 1.0 < found.high
