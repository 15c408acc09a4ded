"""Bland-Altman agreement against SciPy and the formulas of one pair a patient, and its coverage with several."""

import numpy as np
import pytest
from scipy import stats

from evaluation.statistics.bland_altman import bland_altman

Z = 1.959964


def test_one_pair_a_patient_gives_the_textbook_values():
    values = np.random.default_rng(0).normal(2.0, 3.0, 40)
    found = bland_altman(np.append(values, np.nan), np.arange(41))
    interval = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    sd = stats.tstd(values)
    assert (found.pairs, found.patients, found.sd) == (40, 40, pytest.approx(sd))
    assert (found.bias.mean, found.bias.low, found.bias.high) == pytest.approx((values.mean(), *interval))
    assert (found.lower.mean, found.upper.mean) == pytest.approx((values.mean() - Z * sd, values.mean() + Z * sd))
    # the exact interval of a normal quantile, by the non-central t law (Bland and Altman give an approximation of it)
    ends = [stats.nct.ppf(p, 39, Z * np.sqrt(40)) / np.sqrt(40) * sd for p in (0.025, 0.975)]
    assert (found.upper.low, found.upper.high) == pytest.approx(tuple(values.mean() + np.array(ends)), abs=0.06 * sd)
    assert (found.lower.low, found.lower.high) == pytest.approx(
        tuple(values.mean() - np.array(ends)[::-1]), abs=0.06 * sd
    )


def test_intervals_cover_with_several_pairs_a_patient():
    rng, hits, runs = np.random.default_rng(1), np.zeros(3), 400
    limits = 1.0 - Z * np.sqrt(5.0), 1.0 + Z * np.sqrt(5.0)  # of bias 1, variance 4 between and 1 within patients
    for _ in range(runs):
        patients = np.repeat(np.arange(12), rng.integers(1, 5, 12))
        values = 1.0 + rng.normal(0.0, 2.0, 12)[patients] + rng.normal(0.0, 1.0, len(patients))
        found = bland_altman(values, patients)
        parts = zip((found.bias, found.lower, found.upper), (1.0, *limits), strict=True)
        hits += [part.low <= true <= part.high for part, true in parts]
    assert (hits / runs > 0.92).all()


def test_few_patients_have_no_interval():
    assert bland_altman(np.array([np.nan]), np.array(["a"])).pairs == 0
    one = bland_altman(np.array([1.0, 3.0]), np.array(["a", "a"])).as_dict()
    nothing = {"mean": None, "low": None, "high": None}
    assert one == {"pairs": 2, "patients": 1, "sd": None, "bias": {**nothing, "mean": 2.0}, "lower": nothing,
                   "upper": nothing}  # fmt: skip
    same = bland_altman(np.ones(4), np.arange(4))
    assert same.sd == 0.0 and same.upper.high == same.lower.low == 1.0
