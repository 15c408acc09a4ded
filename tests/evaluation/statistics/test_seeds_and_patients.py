"""Inference over seeds and patients: coverage and level by simulation, and its limits."""

import numpy as np
import pytest
from scipy import stats

from evaluation.statistics.patient_bootstrap import bootstrap_mean
from evaluation.statistics.seeds_and_patients import over_seeds_and_patients


def draw(generator, seeds: int, patients: int, of_seeds: float, of_patients: float) -> np.ndarray:
    a = of_seeds * generator.standard_normal((seeds, 1))
    return (
        a + of_patients * generator.standard_normal((1, patients)) + 0.3 * generator.standard_normal((seeds, patients))
    )


@pytest.mark.parametrize(("seeds", "patients"), [(2, 128), (4, 20)])
@pytest.mark.parametrize(("of_seeds", "of_patients"), [(0.0, 1.0), (0.1, 1.0), (0.5, 1.0), (0.3, 0.0)])
def test_it_covers_the_truth_and_rejects_it_rarely(seeds, patients, of_seeds, of_patients):
    generator, rounds = np.random.default_rng(0), 400
    found = [over_seeds_and_patients(draw(generator, seeds, patients, of_seeds, of_patients)) for _ in range(rounds)]
    covered = np.mean([estimate.low <= 0.0 <= estimate.high for estimate, _ in found])
    assert 0.925 <= covered <= 1.0
    assert np.mean([p <= 0.05 for _, p in found]) == pytest.approx(1.0 - covered, abs=1e-3)


def test_an_interval_over_patients_alone_is_too_narrow_for_other_trainings():
    generator, rounds, narrow = np.random.default_rng(1), 300, 0
    for _ in range(rounds):
        values = draw(generator, 2, 100, 0.3, 0.5).mean(axis=0)
        found = bootstrap_mean(values, np.arange(100), draws=200)
        narrow += found.low <= 0.0 <= found.high
    assert narrow / rounds < 0.5


def test_equal_seeds_give_the_t_interval_over_patients():
    own = np.random.default_rng(2).normal(0.3, 1.0, 30)
    found, p = over_seeds_and_patients(np.stack([own, own, own]))
    expected = stats.ttest_1samp(own, 0.0)
    interval = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=0.02)
    assert p == pytest.approx(expected.pvalue, rel=0.05)


def test_without_variation_between_patients_it_is_a_t_test_over_seeds():
    by_seed = np.array([0.5, 0.7, 0.9, 0.4])
    values = np.repeat(by_seed[:, None], 10, axis=1)
    found, p = over_seeds_and_patients(values)
    expected = stats.ttest_1samp(by_seed, 0.0)
    interval = expected.confidence_interval(0.95)
    assert (found.low, found.high, p) == pytest.approx((interval.low, interval.high, expected.pvalue))


def test_margin_shift_and_refusals():
    values = np.random.default_rng(3).normal(size=(3, 12))
    (here, p), (there, q) = over_seeds_and_patients(values, 0.2), over_seeds_and_patients(values + 5.0, 5.2)
    assert p == pytest.approx(q) and there.low - here.low == pytest.approx(5.0)
    assert over_seeds_and_patients(np.ones((2, 4)))[1] == 0.0 and over_seeds_and_patients(np.zeros((2, 4)))[1] == 1.0
    with pytest.raises(ValueError, match="1 seeds and 12 patients"):
        over_seeds_and_patients(values[:1])
