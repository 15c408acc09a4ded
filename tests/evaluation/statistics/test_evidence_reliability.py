"""The reliability of evidence maps in an exact Gaussian world, and of samples that vary too little."""

import json

import numpy as np
import pytest
import torch

from ddpm.diffusion.training_spread import TrainingSpread
from evaluation.statistics.evidence_reliability import BINS, evidence_reliability, reliability_sums

SHAPE, SD, SAMPLES = (40, 24, 24), 200.0, 8
SHARES = torch.arange(0.05, 1.0, 0.1).repeat_interleave(4)  # one slab for the middle of each bin


def case(seed, pairs, width=1.0):
    """Truth and samples whose posterior is N(share (x + e), (1 - share) SD²), of `width` times that deviation.

    Pairs are opposite in half of their variance: with it the variance of the mean is a quarter smaller.
    """
    rng = torch.Generator().manual_seed(seed)
    share = SHARES.view(-1, 1, 1)
    truth = SD * torch.randn(*SHAPE, generator=rng)
    mean = share * truth + SD * (share * (1.0 - share)).sqrt() * torch.randn(*SHAPE, generator=rng)
    common, own = (torch.randn(SAMPLES, *SHAPE, generator=rng) for _ in range(2))
    if pairs:
        common[1::2] = -common[::2]
    return truth, mean + width * SD * (1.0 - share).sqrt() * (common + own) / 2**0.5


def reliability(pairs, cases=3, width=1.0, mask=None):
    spread = TrainingSpread.from_numbers([10, 1, 1], [SD] * 10, 60)
    variance, sums = spread.variance(SHAPE), []
    for seed in range(cases):
        truth, samples = case(seed, pairs, width)
        # cells, not voxels between their centres: there the map is a mixture of two slabs
        evidence = spread.evidence(samples, pairs)[2::4].repeat_interleave(4, dim=0)
        sums.append(reliability_sums(evidence, variance, samples, truth, pairs, mask))
    return sums, evidence_reliability(np.stack(sums), np.array([f"p{i}" for i in range(cases)]))


@pytest.mark.parametrize("pairs", [False, True])
def test_exact_samples_are_reliable_within_five_points_in_every_bin(pairs):
    _, found = reliability(pairs)
    assert len(found["bins"]) == BINS and found["gap"] < 0.03
    for row in found["bins"]:
        assert row["voxels"] == pytest.approx(0.1, abs=0.051)  # a slab may fall into the next bin
        assert row["error"]["mean"] == pytest.approx(row["expected"], abs=0.05)
        assert 1.0 - row["to"] - 0.01 <= row["expected"] <= 1.0 - row["from"] + 0.01


def test_the_error_of_the_mean_of_finitely_many_samples_is_corrected():
    """Without the correction the error of 8 samples would be 1/8 too large."""
    sums, found = reliability(False)
    truth, samples = case(0, False)
    raw = (truth - samples.mean(dim=0)).square().sum() / SD**2 / truth.numel()
    corrected = sums[0][1].sum() / SD**2 / truth.numel()
    assert raw - corrected == pytest.approx(float((1.0 - SHARES).mean()) / SAMPLES, rel=0.05)


def test_samples_that_vary_too_little_promise_a_smaller_error_than_they_have():
    _, found = reliability(False, width=0.5)
    rows = [row for row in found["bins"] if row["error"] is not None]
    assert found["gap"] > 0.2 and all(row["error"]["mean"] > row["expected"] for row in rows)
    assert {"expected": None, "error": None}.items() <= found["bins"][0].items()  # nothing is called invented


def test_masked_and_constant_voxels_do_not_count():
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    mask[:4] = True
    sums, _ = reliability(False, cases=1, mask=mask)
    assert sums[0][0].sum() == mask.sum()
    evidence, variance = torch.full(SHAPE, torch.nan), torch.full(SHAPE, SD**2)
    assert not reliability_sums(evidence, variance, *reversed(case(0, False)), False).any()


def test_a_bin_that_few_of_many_patients_reach_has_a_finite_interval():
    """Of 24 patients two reach the last bin, one the first; none has NaN, which JSON does not hold."""
    sums = np.zeros((24, 4, BINS))
    sums[:, :, 5] = np.array([10.0, 4.0, 8.0, 4.0])
    sums[:2, :, 9] = np.array([10.0, 1.0, 8.0, 0.8])
    sums[0, :, 0] = np.array([10.0, 7.0, 8.0, 8.0])
    found = evidence_reliability(sums, np.arange(24))
    json.dumps(found, allow_nan=False)
    assert found["bins"][9]["error"]["mean"] == pytest.approx(0.125)
    assert found["bins"][0]["error"]["low"] is None
