"""Conformal margins by simulation: coverage on exchangeable cases, ties, and errors for too few."""

import numpy as np
import pytest
import torch
from scipy.stats import binom, binomtest

from evaluation.statistics.split_conformal import (
    cases_needed,
    conformal_margin,
    coverage,
    coverage_p,
    order_interval,
    rank_of,
    samples_needed,
    share_score,
)


def mean_coverage(draw, level: float, cases: int, repeats: int = 4000) -> float:
    """Share of repeats in which a new score lies below the margin of `cases` others."""
    drawn = (draw(cases + 1) for _ in range(repeats))
    return np.mean([scores[-1] <= conformal_margin(scores[:-1], level) for scores in drawn])


@pytest.mark.parametrize(("level", "cases"), [(0.9, 9), (0.9, 30), (0.8, 57), (0.95, 19)])
def test_the_coverage_of_a_new_case_is_close_to_the_level(level, cases):
    rng = np.random.default_rng(0)
    found = mean_coverage(lambda n: rng.lognormal(size=n), level, cases)
    noise = 3.0 * np.sqrt(level * (1 - level) / 4000)
    assert level - noise <= found <= level + 1.0 / (cases + 1) + noise


def test_ties_and_dependence_do_not_reduce_coverage():
    rng = np.random.default_rng(1)
    draws = [lambda n, k=k: rng.integers(k, size=n).astype(float) for k in (1, 3)]
    for draw in (*draws, lambda n: rng.normal(size=n) + 10.0 * rng.normal()):
        assert mean_coverage(draw, 0.8, 24) >= 0.8 - 3.0 * np.sqrt(0.16 / 4000)


def test_cases_from_another_population_lose_the_guarantee():
    rng = np.random.default_rng(3)
    margins = [conformal_margin(rng.normal(size=50), 0.9) for _ in range(500)]
    assert np.mean(rng.normal(1.5, 1.0, 500) <= margins) < 0.6


def test_too_few_cases_raise_at_the_exact_number():
    assert cases_needed(0.9, tails=1) == 9 and cases_needed(0.9) == 19
    assert conformal_margin(np.arange(9.0), 0.9) == 8.0
    with pytest.raises(ValueError, match="8 calibration cases: the level 0.9 needs at least 9"):
        conformal_margin(np.arange(8.0), 0.9)
    with pytest.raises(ValueError, match="finite"):
        conformal_margin(np.array([0.0, np.nan] * 10), 0.9)


@pytest.mark.parametrize(("level", "needed"), [(0.5, 4), (0.75, 8), (0.8, 10), (0.9, 20), (0.95, 40), (0.99, 200)])
def test_an_interval_needs_two_over_one_minus_level_samples(level, needed):
    assert samples_needed(level) == needed and rank_of(needed, level) >= 1
    with pytest.raises(ValueError, match=f"needs at least {needed} samples"):
        rank_of(needed - 1, level)


@pytest.mark.parametrize("level", [-0.1, 0.0, 1.0])
def test_a_level_outside_0_to_1_raises(level):
    with pytest.raises(ValueError, match="level"):
        samples_needed(level)


@pytest.mark.parametrize(("level", "samples"), [(0.9, 20), (0.8, 20), (0.5, 9), (0.5, 4)])
def test_order_statistics_contain_another_sample_with_the_exact_probability(level, samples):
    drawn = torch.randn(samples + 1, 40_000, generator=torch.Generator().manual_seed(4)).exp()
    low, high = order_interval(drawn[1:], level)
    found = ((drawn[0] >= low) & (drawn[0] <= high)).double().mean().item()
    exact = (samples + 1 - 2 * rank_of(samples, level)) / (samples + 1)
    assert exact >= level and found == pytest.approx(exact, abs=0.008)


def test_the_ends_are_the_samples_of_the_rank():
    drawn = torch.randn(25, 3, 4, generator=torch.Generator().manual_seed(5))
    for level in (0.9, 0.8, 0.5):
        k = rank_of(25, level)
        low, high = order_interval(drawn, level)
        assert torch.equal(low, drawn.sort(dim=0).values[k - 1]) and torch.equal(high, drawn.sort(dim=0).values[-k])


def test_the_share_score_is_the_smallest_margin_that_covers_the_share():
    excess = torch.tensor([5.0, -1.0, 2.0, 2.0, 9.0])
    for share in (0.2, 0.5, 0.8, 1.0):
        score = share_score(excess, share)
        assert (excess <= score).double().mean() >= share
        assert (excess < score).double().mean() < share


@pytest.mark.parametrize("hits", [0, 37, 50])
def test_the_interval_of_a_coverage_is_the_exact_binomial_one(hits):
    found = coverage(np.arange(50) < hits)
    assert found["covered"] == hits and found["cases"] == 50 and found["low"] <= found["mean"] <= found["high"]
    if hits > 0:  # at the lower end `hits` or more have a probability of 2.5 %
        assert binom.sf(hits - 1, 50, found["low"]) == pytest.approx(0.025, abs=1e-4)
    if hits < 50:
        assert binom.cdf(hits, 50, found["high"]) == pytest.approx(0.025, abs=1e-4)


@pytest.mark.parametrize(("cases", "ends"), [(128, 1), (128, 2)])
def test_a_right_margin_is_rejected_as_rarely_as_promised(cases, ends):
    """By simulation of calibration and test; a binomial test rejects it too often."""
    rng, level, calibration, rounds = np.random.default_rng(0), 0.9, 99, 500
    p, binomial = [], []
    for _ in range(rounds):
        scores, new = rng.normal(size=calibration), rng.normal(size=cases)
        one_end = 1.0 - (1.0 - level) / ends
        covered = new <= conformal_margin(scores, one_end)
        if ends == 2:
            covered &= -new <= conformal_margin(-scores, one_end)
        p.append(coverage_p(int(covered.sum()), cases, calibration, level, ends))
        binomial.append(binomtest(int(covered.sum()), cases, level).pvalue)
    assert np.mean(np.array(p) <= 0.05) <= 0.065 and np.mean(np.array(p) <= 0.5) > 0.3
    assert np.mean(np.array(binomial) <= 0.05) > 0.08


def test_the_law_of_coverage_has_the_mean_of_the_promise():
    law = [coverage_p(count, 50, 99, 0.9) for count in range(51)]
    assert max(law) == 1.0 and law[45] > 0.5 and law[20] < 1e-6
