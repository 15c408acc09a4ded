"""AUC and its intervals against brute force, a hand-computed example, scipy and scikit-learn, and their coverage."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score

from evaluation.statistics.binary_metrics import decision_table
from evaluation.statistics.delong import areas, auc_covariance, bootstrap_areas
from evaluation.statistics.roc import (
    auc,
    expected_half_width,
    hanley_mcneil_variance,
    precision_recall_points,
    roc_points,
    score_interval,
    sensitive_threshold,
    youden_threshold,
)


def binormal(positives: int, negatives: int, seed: int, shift: float = 1.2, k: int = 2, decimals: int = 1):
    """Scores with ties of k correlated classifiers."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([1, 0], [positives, negatives])
    shared = rng.normal(size=len(labels))
    scores = [shared + rng.normal(size=len(labels)) + shift * labels * (1 + 0.3 * i) for i in range(k)]
    return np.round(scores, decimals), labels


def brute_covariance(first, second, labels):
    """DeLong's formula from all pairs."""

    def kernel(scores):
        pos, neg = scores[labels == 1], scores[labels == 0]
        return np.array([[1.0 if x > y else 0.5 if x == y else 0.0 for y in neg] for x in pos])

    a, b = kernel(first), kernel(second)
    m, n = a.shape
    s10 = np.cov(a.mean(axis=1), b.mean(axis=1))[0, 1]
    s01 = np.cov(a.mean(axis=0), b.mean(axis=0))[0, 1]
    return s10 / m + s01 / n


def test_the_area_under_the_points_agrees_with_scikit_learn():
    for seed in range(4):
        scores, labels = binormal(9, 14, seed)
        fpr, tpr = roc_points(scores[0], labels)
        assert np.trapezoid(tpr, fpr) == pytest.approx(auc(scores[0], labels))
        recall, precision = precision_recall_points(scores[0], labels)
        steps = np.diff(recall, prepend=0.0)
        assert (steps * precision).sum() == pytest.approx(average_precision_score(labels, scores[0]))


def test_covariance_agrees_with_all_pairs():
    scores, labels = binormal(12, 19, seed=3, k=3)
    means, covariance = auc_covariance(scores, labels, np.arange(31))
    for i in range(3):
        assert means[i] == pytest.approx(roc_auc_score(labels, scores[i]))
        for j in range(3):
            assert covariance[i, j] == pytest.approx(brute_covariance(scores[i], scores[j], labels))


def test_an_example_computed_by_hand():
    # positives 3, 1; negatives 2, 0: kernel [[1, 1], [0, 1]], AUC 3/4; placements (1, 1/2) and (1/2, 1),
    # each of variance 1/8, so the variance is 1/16 + 1/16
    mean, covariance = auc_covariance(np.array([[3.0, 1.0, 2.0, 0.0]]), np.array([1, 1, 0, 0]), np.arange(4))
    assert mean[0] == 0.75 and covariance[0, 0] == pytest.approx(0.125)


def test_doubled_cases_of_a_patient_add_no_information():
    scores, labels = binormal(15, 20, seed=5)
    patients = np.arange(35)
    _, once = auc_covariance(scores, labels, patients)
    twice = (np.repeat(scores, 2, axis=1), np.repeat(labels, 2))
    _, clustered = auc_covariance(*twice, np.repeat(patients, 2))
    _, naive = auc_covariance(*twice, np.arange(70))
    assert np.allclose(clustered, once) and naive[0, 0] < 0.6 * once[0, 0]


def test_interval_of_clusters_agrees_with_the_bootstrap_over_patients():
    rng = np.random.default_rng(0)
    owner = np.repeat(np.arange(60), 3)
    level = rng.normal(size=60)[owner]
    labels = (rng.random(180) < 0.4).astype(int)
    scores = (level + 0.5 * rng.normal(size=180) + labels)[None]
    _, covariance = auc_covariance(scores, labels, owner)
    drawn = bootstrap_areas(scores, labels, owner, draws=1500)
    assert np.sqrt(covariance[0, 0]) == pytest.approx(np.nanstd(drawn), rel=0.15)


def test_folds_are_averaged_and_their_scores_never_pooled():
    scores, labels = binormal(20, 20, seed=1)
    folds = np.tile([0, 1], 20)
    shifted = scores + 100.0 * folds  # another model with another scale of scores
    plain, moved = (areas(s, labels, np.arange(40), folds) for s in (scores, shifted))
    assert np.allclose(plain.means, moved.means) and np.allclose(plain.covariance, moved.covariance)
    assert plain.means[0] == pytest.approx(np.mean([auc(scores[0][folds == f], labels[folds == f]) for f in (0, 1)]))
    halves = [auc_covariance(scores[:, folds == f], labels[folds == f], np.arange(20))[1] for f in (0, 1)]
    assert np.allclose(plain.covariance, (halves[0] + halves[1]) / 4)
    drawn = bootstrap_areas(shifted, labels, np.arange(40), folds, draws=200)
    assert np.allclose(drawn, bootstrap_areas(scores, labels, np.arange(40), folds, draws=200), equal_nan=True)


def test_bootstrap_draws_are_aucs_of_the_drawn_cases():
    scores, labels = binormal(6, 7, seed=2)
    drawn = bootstrap_areas(scores, labels, np.arange(13), draws=20, seed=4)
    picks = np.random.default_rng((4, 0)).integers(13, size=(20, 13))
    for row, pick in zip(drawn, picks, strict=True):
        if len(set(labels[pick])) == 2:
            assert row[0] == pytest.approx(roc_auc_score(labels[pick], scores[0][pick]))
        else:
            assert np.isnan(row).all()


def test_intervals_cover_the_true_auc_and_paired_tests_keep_their_level():
    truth, hits, rejected, runs = norm.cdf(1.2 / 2.0), 0, 0, 400
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        labels = np.repeat([1, 0], [40, 50])
        shared = rng.normal(size=90) + 1.2 * labels
        scores = np.stack([shared + rng.normal(size=90), shared + rng.normal(size=90)])
        found = areas(scores, labels, np.arange(90))
        low, high = found.interval(0)
        hits += low <= truth <= high
        rejected += found.difference(0, 1)[3] < 0.05
    assert 0.92 <= hits / runs <= 0.98 and 0.02 <= rejected / runs <= 0.085


def test_the_p_value_of_one_half_agrees_with_the_interval_and_keeps_its_level():
    rng, labels, below = np.random.default_rng(3), np.arange(60) % 2, 0
    for _ in range(400):
        found = areas(rng.normal(size=60), labels, np.arange(60))
        low, high = found.interval(0)
        assert (found.p_value(0) < 0.05) == (not low <= 0.5 <= high)
        below += found.p_value(0) < 0.05
    assert 0.02 < below / 400 < 0.09
    assert areas(labels.astype(float), labels, np.arange(60)).p_value(0) is None


def test_separated_classes_have_an_interval():
    scores, labels = np.array([[3.0, 2.0, 1.0, 0.0]]), np.array([1, 1, 0, 0])
    low, high = areas(scores, labels, np.arange(4)).interval(0)
    assert high == 1.0 and 0.2 < low < 0.8
    low, _ = score_interval(1.0, 200, 200)
    assert low > 0.97
    below, above = score_interval(0.8, 30, 40)
    for end in (below, above):
        error = np.sqrt(hanley_mcneil_variance(end, 30, 40))
        assert abs(0.8 - end) == pytest.approx(norm.ppf(0.975) * error, abs=1e-6)


def test_expected_half_width_is_the_mean_delong_width():
    widths = []
    for seed in range(60):
        scores, labels = binormal(60, 80, seed, shift=1.2, decimals=6)
        found = areas(scores[:1], labels, np.arange(140))
        widths.append(norm.ppf(0.975) * np.sqrt(found.covariance[0, 0]))
    expected = expected_half_width(norm.cdf(0.6), 60, 80)
    assert expected == pytest.approx(np.mean(widths), rel=0.12)
    assert expected_half_width(0.8, 60, 80, folds=4) == pytest.approx(expected_half_width(0.8, 60, 80) / 2)


def test_thresholds_reach_their_targets():
    scores, labels = binormal(30, 40, seed=8, decimals=2)
    scores = scores[0]
    cuts = [(np.mean(scores[labels == 1] >= t) + np.mean(scores[labels == 0] < t), t) for t in scores]
    t = youden_threshold(scores, labels)
    assert np.mean(scores[labels == 1] >= t) + np.mean(scores[labels == 0] < t) == pytest.approx(max(cuts)[0])
    t = sensitive_threshold(scores, labels, 0.95)
    assert np.mean(scores[labels == 1] >= t) >= 0.95
    higher = scores[(scores >= t)].min()  # the next higher score misses too many
    assert np.mean(scores[labels == 1] > higher) < 0.95
    assert np.mean(scores >= sensitive_threshold(scores, labels, 1.0)) >= np.mean(labels)


def test_decisions_are_counted_and_a_rate_without_cases_is_none():
    labels = np.array([1, 1, 1, 0, 0, 0, 0, 0])
    positive = np.array([True, True, False, True, False, False, False, False])
    table = decision_table(positive, labels, np.arange(8))
    found = {name: (table[name]["hits"], table[name]["count"]) for name in table}
    assert found == {"accuracy": (6, 8), "sensitivity": (2, 3), "specificity": (4, 5), "ppv": (2, 3), "npv": (4, 5)}
    assert decision_table(np.zeros(8, bool), labels, np.arange(8))["ppv"] is None
    clustered = decision_table(np.tile(positive, 40), np.tile(labels, 40), np.tile(np.arange(8), 40))
    single = decision_table(np.tile(positive, 40), np.tile(labels, 40), np.arange(320))
    width = {k: t["accuracy"]["high"] - t["accuracy"]["low"] for k, t in (("c", clustered), ("s", single))}
    assert width["c"] > 3 * width["s"]  # forty cases of one patient are not forty patients


@pytest.mark.parametrize(
    ("scores", "labels", "words"),
    [([0.3], [1], "1 of 1 cases"), ([0.1, 0.2], [1, 1], "2 of 2 cases are positive"),
     ([0.1, np.nan], [0, 1], "not finite"), ([0.1, 0.2], [0, -1], "give 0 and 1")],
)  # fmt: skip
def test_scores_without_a_roc_curve_raise(scores, labels, words):
    with pytest.raises(ValueError, match=words):
        auc(np.array(scores), np.array(labels))
