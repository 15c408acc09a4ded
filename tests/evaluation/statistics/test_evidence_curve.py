"""The curve of evidence in an exact Gaussian world, where the evidence of samples of any width has a closed form."""

import numpy as np
import pytest
import torch

from ddpm.diffusion.training_spread import TrainingSpread
from evaluation.statistics.evidence_curve import FINE_BINS, EvidenceCurve, grouped
from evaluation.statistics.evidence_reliability import BINS, evidence_reliability, reliability_sums

SD, SAMPLES, CELLS, SIDE = 200.0, 8, 20, 24
SHARES = (torch.arange(CELLS) + 0.5) / CELLS  # determined by the X-ray, in one slab each


def sums_of(seeds, width=1.0, shares=SHARES, bins=FINE_BINS):
    """Sums of cases whose posterior is N(share (x + e), (1 - share) SD²), with samples of `width` times its SD."""
    spread, found = TrainingSpread.from_numbers([CELLS, 1, 1], [SD] * CELLS, 60), []
    shape = (4 * CELLS, SIDE, SIDE)
    share = shares.repeat_interleave(4).view(-1, 1, 1)
    for seed in seeds:
        rng = torch.Generator().manual_seed(seed)
        truth, error = (SD * torch.randn(*shape, generator=rng) for _ in range(2))
        mean = share * truth + (share * (1.0 - share)).sqrt() * error
        samples = mean + width * SD * (1.0 - share).sqrt() * torch.randn(SAMPLES, *shape, generator=rng)
        # cells, not voxels between their centres: there the map is a mixture of two slabs
        evidence = spread.evidence(samples, False)[2::4].repeat_interleave(4, dim=0)
        variance = torch.full(shape, SD**2)
        found.append(reliability_sums(evidence, variance, samples, truth, False, bins=bins))
    return np.stack(found)


def test_samples_of_the_true_posterior_give_the_identity():
    curve = EvidenceCurve.fit(sums_of(range(4)))
    places = np.linspace(0.05, 0.95, 19)
    assert curve.cases == 4 and np.abs(curve.of(places) - places).max() < 0.05


@pytest.mark.parametrize("width", [0.5, 0.8, 1.2])
def test_samples_of_a_known_width_give_the_known_curve(width):
    """Samples of w times the deviation claim 1 - w² (1 - e), so e is 1 - (1 - claimed) / w²; never below 0."""
    curve = EvidenceCurve.fit(sums_of(range(4), width))
    claimed = (1.0 - width**2 * (1.0 - SHARES)).numpy()
    kept = claimed > 0.0  # the others are clipped
    assert np.abs(curve.of(claimed) - SHARES.numpy())[kept].max() < 0.06


@pytest.mark.parametrize("width", [0.5, 1.0, 1.5])
def test_the_curve_is_monotone_and_within_bounds(width):
    curve = EvidenceCurve.fit(sums_of([0], width))
    values = curve.of(np.linspace(0.0, 1.0, 1001))
    assert (np.diff(values) >= 0.0).all() and values.min() >= 0.0 and values.max() <= 1.0


@pytest.mark.parametrize("width", [0.6, 1.0])
def test_an_xray_that_says_nothing_determines_nothing(width):
    """Also where samples that are too narrow claim that it does."""
    curve = EvidenceCurve.fit(sums_of(range(4), width, torch.zeros(CELLS)))
    claimed = 1.0 - width**2
    assert curve.of(np.array(claimed)) < 0.03 and curve.of(np.array(claimed + 0.1)) < 0.06


def test_the_curve_makes_maps_of_other_cases_reliable():
    curve, held_out, patients = EvidenceCurve.fit(sums_of(range(4), 0.6)), sums_of(range(10, 14), 0.6), np.arange(4)
    before, after = (evidence_reliability(grouped(held_out, c), patients, draws=10) for c in (None, curve))
    assert before["gap"] > 0.2 and after["gap"] < 0.03
    for row in after["bins"]:
        assert row["error"] is None or abs(row["error"]["mean"] - row["expected"]) < 0.05
    # the same as from sums that were taken in the wider bins
    wide = evidence_reliability(sums_of(range(10, 14), 0.6, bins=BINS), patients, draws=10)
    assert wide["gap"] == pytest.approx(before["gap"], abs=1e-5)


def test_a_map_keeps_its_places_without_a_value():
    curve = EvidenceCurve([0.2, 0.6], [0.1, 0.5], 3)
    found = curve(torch.tensor([0.0, 0.2, 0.4, 1.0, torch.nan]))
    assert torch.allclose(found[:4], torch.tensor([0.1, 0.1, 0.3, 0.5])) and found[4].isnan()


@pytest.mark.parametrize(
    "points", [([], []), ([0.1], [0.1, 0.2]), ([0.3, 0.2], [0, 1]), ([0, 1], [0.5, 0.4]), ([0], [2])]
)
def test_points_that_are_no_monotone_function_are_refused(points):
    with pytest.raises(ValueError):
        EvidenceCurve(*points, 3)


def test_cases_without_a_voxel_give_no_curve():
    assert EvidenceCurve.fit(np.zeros((2, 4, FINE_BINS))) is None
