"""Recalibration against scikit-learn's logistic regression, and on separated and inverted cases."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss

from evaluation.statistics.platt import brier, fit_recalibration, reliability


def sample(count: int, seed: int, slope: float = 0.4, offset: float = -0.7):
    """Overconfident logits with an offset."""
    rng = np.random.default_rng(seed)
    logits = 4.0 * rng.normal(size=count)
    return logits, (rng.random(count) < expit(slope * logits + offset)).astype(int)


def test_recalibration_is_a_logistic_regression_when_cases_are_many():
    logits, labels = sample(4000, 0)
    found = fit_recalibration(logits, labels)
    theirs = LogisticRegression(C=1e8).fit(logits[:, None], labels)
    assert found.slope == pytest.approx(theirs.coef_[0, 0], rel=0.02)
    assert found.offset == pytest.approx(theirs.intercept_[0], abs=0.02)
    assert (found.slope, found.offset) == pytest.approx((0.4, -0.7), abs=0.1)


def test_it_improves_the_brier_score_of_new_cases_and_keeps_the_order():
    recalibration = fit_recalibration(*sample(300, 1))
    logits, labels = sample(2000, 2)
    before, after = expit(logits), recalibration(logits)
    assert brier(before, labels).mean() == pytest.approx(brier_score_loss(labels, before))
    assert brier(after, labels).mean() < 0.9 * brier(before, labels).mean()
    assert np.array_equal(np.argsort(before), np.argsort(after))


def test_separated_and_inverted_validation_cases_give_moderate_probabilities():
    labels = np.array([0, 0, 0, 1, 1, 1])
    separated = fit_recalibration(np.array([-3.0, -2.0, -1.0, 1.0, 2.0, 3.0]), labels)
    assert 0.02 < separated(np.array([-3.0]))[0] < 0.5 < separated(np.array([3.0]))[0] < 0.98
    inverted = fit_recalibration(np.array([3.0, 2.0, 1.0, -1.0, -2.0, -3.0]), labels)
    assert inverted.slope == 0.0 and inverted(np.array([5.0]))[0] == pytest.approx(0.5, abs=1e-3)
    constant = fit_recalibration(np.full(6, 2.0), labels)
    assert constant(np.array([2.0]))[0] == pytest.approx(0.5, abs=1e-3)


def test_reliability_of_true_probabilities_lies_on_the_diagonal():
    rng = np.random.default_rng(3)
    p = rng.random(8000)
    bins = reliability(p, (rng.random(8000) < p).astype(int))
    assert sum(b["count"] for b in bins) == 8000 and len(bins) == 8
    assert all(abs(b["predicted"] - b["observed"]) < 0.04 and b["low"] < b["observed"] < b["high"] for b in bins)
