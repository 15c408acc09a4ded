"""Intervals against SciPy and by simulation; sign flips, Holm, derangement of patients."""

import numpy as np
import pytest
from scipy import stats

from evaluation.statistics.binary_metrics import decision_table
from evaluation.statistics.patient_bootstrap import (
    bootstrap_mean,
    bootstrap_ratio,
    derangement,
    paired_difference,
    resampled_means,
)
from evaluation.statistics.rank_histogram import rank_histogram
from evaluation.statistics.significance import holm, sign_flip_p


def test_interval_agrees_with_scipy():
    values = np.random.default_rng(3).gamma(2.0, size=40)
    ours = bootstrap_mean(values, np.arange(40), draws=20000, seed=1)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20000, method="percentile", rng=2).confidence_interval
    spread = theirs.high - theirs.low
    assert ours.mean == pytest.approx(values.mean())
    assert ours.low == pytest.approx(theirs.low, abs=0.03 * spread)
    assert ours.high == pytest.approx(theirs.high, abs=0.03 * spread)


def test_interval_covers_the_truth_when_patients_have_several_cases():
    generator, hits, naive_hits, rounds = np.random.default_rng(0), 0, 0, 300
    patients = np.repeat(np.arange(30), 4)
    for _ in range(rounds):
        values = np.repeat(generator.normal(size=30), 4) + 0.2 * generator.normal(size=120)
        estimate = bootstrap_mean(values, patients, draws=400, seed=0)
        naive = bootstrap_mean(values, np.arange(120), draws=400, seed=0)
        hits += estimate.low <= 0.0 <= estimate.high
        naive_hits += naive.low <= 0.0 <= naive.high
    assert 0.89 <= hits / rounds <= 0.98
    assert naive_hits / rounds < 0.80  # resampling cases instead of patients gives too narrow intervals


def test_the_seed_determines_the_interval_and_nan_is_left_out():
    values, patients = np.array([1.0, 2.0, np.nan, 4.0, 8.0]), np.array(list("abcde"))
    assert bootstrap_mean(values, patients, seed=5) == bootstrap_mean(values, patients, seed=5)
    assert bootstrap_mean(values, patients).mean == pytest.approx(3.75)
    assert bootstrap_mean(np.full(3, np.nan), np.arange(3)).as_dict() == {"mean": None, "low": None, "high": None}


def test_one_patient_has_no_interval():
    estimate = bootstrap_mean(np.array([1.0, 3.0]), np.array(["a", "a"]))
    assert (estimate.mean, estimate.low, estimate.high) == (2.0, None, None)


def test_pairing_removes_the_variance_between_cases():
    generator = np.random.default_rng(0)
    shared, patients = generator.normal(scale=10.0, size=50), np.arange(50)
    first, second = shared + 1.0 + 0.1 * generator.normal(size=50), shared
    difference = paired_difference(first, second, patients)
    assert 0.9 < difference.low < 1.0 < difference.high < 1.1


def test_sign_flip_agrees_with_every_sign_and_with_scipy():
    differences = np.array([0.3, 1.2, -0.4, 0.9, 1.5, 0.2, 0.8, -0.1])
    exact = stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    assert sign_flip_p(differences, np.arange(8), draws=40000) == pytest.approx(exact, abs=0.01)
    assert sign_flip_p(np.zeros(5), np.arange(5)) == 1.0
    assert sign_flip_p(np.ones(3), np.zeros(3)) is None


def test_holm_by_hand():
    # Holm 1979: the smallest times 3, the next times 2, the last times 1, never falling
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": None})
    assert adjusted == {"a": pytest.approx(0.03), "c": pytest.approx(0.06), "b": pytest.approx(0.06), "d": None}


@pytest.mark.parametrize("names", ["ab", "abc", "abcdefghijkl", "aabbbcd"])
def test_derangement_gives_every_case_one_of_another_patient(names):
    patients = np.array(list(names))
    for seed in range(20):
        partner = derangement(patients, seed)
        assert (patients[partner] != patients).all() and sorted(partner) == list(range(len(names)))
        assert np.array_equal(partner, derangement(patients, seed))


def test_derangement_of_one_patient_or_a_majority():
    crowded = np.array(["a", "a", "a", "a", "b"])  # no permutation exists
    assert (crowded[derangement(crowded, 0)] != crowded).all()
    assert derangement(np.array(["a"]), 0) is None
    assert derangement(np.array(["a", "a"]), 0) is None


@pytest.mark.parametrize("patients", [4, 8, 19])
@pytest.mark.parametrize("draw", ["normal", "uniform", "gamma"])
def test_intervals_of_few_patients_cover_what_they_promise(patients, draw):
    """The t interval covers 0.95 for normal and uniform values and at least 0.9 for skewed ones."""
    generator, rounds = np.random.default_rng(0), 1500
    arguments = {"normal": (0.0, 1.0), "uniform": (-1.0, 1.0), "gamma": (2.0, 1.0)}[draw]
    truth, hits = 2.0 if draw == "gamma" else 0.0, 0
    for values in getattr(generator, draw)(*arguments, size=(rounds, patients)):
        found = bootstrap_mean(values, np.arange(patients))
        hits += found.low <= truth <= found.high
    assert (0.9 if draw == "gamma" else 0.925) < hits / rounds < 0.97


def test_the_interval_of_few_patients_is_that_of_scipy():
    values = np.array([3.0, 5.5, 4.0, 9.0, 1.0])
    found = bootstrap_mean(values, np.arange(5))
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_few_patients_with_several_cases_count_as_patients():
    generator, hits, rounds = np.random.default_rng(1), 0, 1000
    patients = np.repeat(np.arange(8), [1, 2, 3, 4, 4, 3, 2, 1])
    for _ in range(rounds):
        values = generator.normal(size=8)[patients] + 0.2 * generator.normal(size=20)
        found = bootstrap_mean(values, patients)
        hits += found.low <= 0.0 <= found.high
    assert 0.90 <= hits / rounds <= 0.97


@pytest.mark.parametrize("patients", [8, 40])
def test_a_ratio_covers_the_truth(patients):
    generator, hits, rounds = np.random.default_rng(2), 0, 600
    for _ in range(rounds):
        below = generator.gamma(20.0, size=patients)
        above = 0.5 * below + generator.normal(size=patients)
        found = bootstrap_ratio(above, below, np.arange(patients), draws=500)
        hits += found.low <= 0.5 <= found.high
    assert 0.90 <= hits / rounds <= 0.975


def test_shares_stay_between_zero_and_one():
    """Three patients with several cases each, whose t interval would reach from below 0 to above 1."""
    patients, labels = np.repeat(np.arange(3), 2), np.array([0, 1, 0, 1, 0, 1])
    table = decision_table(np.array([0, 1, 1, 1, 0, 1], dtype=bool), labels, patients)
    assert table["accuracy"]["high"] == 1.0 and table["specificity"]["low"] == 0.0
    shares = np.array([[1.0, 0.0], [0.9, 0.1], [0.7, 0.3]])
    first, second = rank_histogram(shares, np.arange(3))["shares"]
    assert first["high"] == 1.0 and second["low"] == 0.0


def test_resampled_means_are_those_of_the_interval():
    values, patients = np.random.default_rng(3).normal(size=(40, 2)), np.repeat(np.arange(20), 2)
    drawn = resampled_means(values, patients, draws=500)
    expected = bootstrap_mean(values[:, 1], patients, draws=500)
    assert np.quantile(drawn[:, 1], [0.025, 0.975]) == pytest.approx([expected.low, expected.high])
    assert resampled_means(values[:10], patients[:10]) is None


def test_patients_without_a_denominator_do_not_count():
    """24 patients of whom 2 have a denominator: a draw of the others alone would be 0/0."""
    above, below = np.zeros(24), np.zeros(24)
    above[:2], below[:2] = (1.0, 3.0), (2.0, 4.0)
    found = bootstrap_ratio(above, below, np.arange(24))
    assert found == bootstrap_ratio(above[:2], below[:2], np.arange(2)) and np.isfinite([found.low, found.high]).all()
    assert bootstrap_ratio(above[1:], below[1:], np.arange(23)).as_dict() == {"mean": 0.75, "low": None, "high": None}
    assert bootstrap_ratio(above[2:], below[2:], np.arange(22)).as_dict() == dict.fromkeys(("mean", "low", "high"))
