"""Rank histogram: flat for calibrated samples, U-shaped for too little spread; ties are shared."""

import numpy as np
import pytest
import torch

from ddpm.diffusion.sample_spread import independent
from evaluation.statistics.rank_histogram import deviation_from_flat, rank_histogram, rank_shares

SHAPE = (20, 20, 20)
EVERYWHERE = torch.ones(SHAPE, dtype=torch.bool)


def shares(count: int, scale: float = 1.0, seed: int = 0) -> np.ndarray:
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randn(SHAPE, generator=generator)
    return rank_shares(scale * torch.randn(count, *SHAPE, generator=generator), truth, EVERYWHERE)


@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_calibrated_samples_are_flat(count):
    found = shares(count)
    assert found == pytest.approx(np.full(count + 1, 1.0 / (count + 1)), abs=0.02) and found.sum() == pytest.approx(1)
    assert deviation_from_flat(found) < 0.02


def test_too_little_and_too_much_spread():
    narrow, wide = shares(4, 0.3), shares(4, 3.0)
    assert narrow[0] > 0.3 and narrow[4] > 0.3 and wide[2] > 0.3 and wide[0] < 0.15
    assert deviation_from_flat(narrow) > 0.2 < deviation_from_flat(shares(4, 5.0))


def test_opposite_samples_are_not_exchangeable_so_one_of_each_pair_counts():
    generator = torch.Generator().manual_seed(0)
    truth, first = torch.randn(SHAPE, generator=generator), torch.randn(2, *SHAPE, generator=generator)
    samples = torch.stack([first, -first], dim=1).flatten(0, 1)
    assert deviation_from_flat(rank_shares(samples, truth, EVERYWHERE)) > 0.05
    assert torch.equal(independent(samples, True), first)
    assert deviation_from_flat(rank_shares(independent(samples, True), truth, EVERYWHERE)) < 0.02


def test_ties_share_their_ranks_and_the_mask_counts():
    truth, samples = torch.zeros(1, 1, 3), torch.tensor([[0.0, 0.0, -1.0], [0.0, 5.0, -1.0]])[:, None, None]
    everywhere = torch.ones(1, 1, 3, dtype=torch.bool)
    assert rank_shares(samples, truth, everywhere) == pytest.approx([(1 / 3 + 1 / 2) / 3, (1 / 3 + 1 / 2) / 3, 4 / 9])
    last = torch.tensor([[[False, False, True]]])
    assert rank_shares(samples, truth, last).tolist() == [0.0, 0.0, 1.0]
    assert np.isnan(rank_shares(samples, truth, ~everywhere)).all()


def test_the_histogram_of_cases_has_intervals_over_patients():
    cases = np.stack([shares(4, seed=seed) for seed in range(24)])
    found = rank_histogram(cases, np.arange(24))
    assert len(found["shares"]) == 5 and found["flat"] == 0.2 and found["cases"] == 24
    assert sum(share["low"] <= 0.2 <= share["high"] for share in found["shares"]) >= 3
    assert found["deviation"]["low"] <= found["deviation"]["mean"] < 0.01
    few = rank_histogram(cases[:5], np.arange(5))
    assert few["deviation"]["low"] is None and few["shares"][0]["low"] is not None
    assert rank_histogram(np.full((2, 5), np.nan), np.arange(2)) is None


def test_deviation_of_the_extremes():
    assert deviation_from_flat(np.full(5, 0.2)) == 0.0
    assert deviation_from_flat(np.array([[1.0, 0.0, 0.0, 0.0], [0.5, 0.0, 0.0, 0.5]])) == pytest.approx([0.75, 0.5])
