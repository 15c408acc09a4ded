"""The test of input shift: X-rays of the calibration's kind pass it, changed ones and another population do not."""

import json
from dataclasses import asdict, replace

import numpy as np
import projection_world
import pytest
import torch
from intervals_xrays import phantom_xrays
from torch.nn import functional as F

from evaluation.intervals.input_shift import FITTED_ON, LEVEL, InputShift, curve_features, xray_features
from evaluation.intervals.prediction_intervals import SAMPLED_WITH, PredictionIntervals, error_bars


@pytest.fixture(scope="module")
def world():
    """The test fitted on phantoms, and fresh phantoms."""
    everything = phantom_xrays(0, 128)
    return InputShift.fit(everything[:48], everything[48:104]), everything[104:]


def blurred(xray):
    return F.avg_pool2d(F.pad(xray[None], (1, 1, 1, 1), mode="replicate"), 3, stride=1)[0]


CHANGES = {
    "gamma 0.8": lambda xray: xray**0.8,
    "gamma 1.25": lambda xray: xray**1.25,
    "blur": blurred,
    "noise": lambda xray: (xray + 0.05 * torch.randn(xray.shape, generator=torch.Generator().manual_seed(0))).clamp(
        0, 1
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changed_xrays_lose_their_interval(world, name):
    """With 48 training and 56 calibration X-rays of 64² pixels; more of both see more (docs/evaluation.md)."""
    shift, fresh = world
    least = 0.8 if name.startswith("gamma") else 0.9
    assert np.mean([shift.p_value(CHANGES[name](xray)) < LEVEL for xray in fresh]) >= least


@pytest.mark.slow
def test_with_four_hundred_training_xrays_the_exponent_is_always_seen():
    everything = phantom_xrays(1000, 540)
    shift, fresh = InputShift.fit(everything[:FITTED_ON], everything[FITTED_ON:500]), everything[500:]
    for exponent in (0.8, 1.25):
        assert all(shift.p_value(xray**exponent) < LEVEL for xray in fresh)
    assert np.mean([shift.p_value(xray) < LEVEL for xray in fresh]) <= 0.17  # of 0.05 in the mean


def test_a_file_of_an_earlier_version_keeps_its_two_ranks(world):
    shift, fresh = world
    distances, exponents = (sorted(map(of, fresh)) for of in (shift.distance, shift.exponent))
    length = len(curve_features(fresh[0])) - 256
    known = {"distances": distances, "exponents": exponents}
    old = InputShift(shift.mean, shift.whitening, shift.curve[:length] + [0.0], **known)
    residual = xray_features(fresh[0]) - np.array(shift.mean)
    assert old.distance(fresh[0]) == pytest.approx(np.linalg.norm(np.array(shift.whitening) @ residual))
    assert old.exponent(fresh[0]) == pytest.approx(abs(np.dot(old.curve[:-1], curve_features(fresh[0])[:length])))
    ranks = [
        sum(value >= of(fresh[3]) for value in known) + 1
        for known, of in ((distances, old.distance), (exponents, old.exponent))
    ]
    assert old.p_value(fresh[3]) == pytest.approx(min(1.0, 2.0 * min(ranks) / (len(fresh) + 1)))


def test_fresh_xrays_keep_it(world):
    shift, fresh = world
    p = np.array([shift.p_value(xray) for xray in fresh])
    assert np.mean(p < LEVEL) <= 0.17 and p.mean() > 0.3


def test_xrays_of_the_calibration_rarely_lose_their_interval():
    xrays = list(torch.rand(840, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    shift = InputShift.fit(xrays[:40], xrays[40:440])
    found = np.array([shift.p_value(xray) for xray in xrays[440:]])
    for level in (0.05, 0.1, 0.5):
        chance = (2.0 * level * (1.0 - level) / 400) ** 0.5  # standard deviation, of calibration and fresh ones
        assert abs(np.mean(found <= level) - level) <= 3.0 * chance


def test_lost_detail_below_the_coarse_grid_is_seen():
    xrays = list(torch.rand(80, 1, 128, 128, generator=torch.Generator().manual_seed(0)))
    shift = InputShift.fit(xrays[:40], xrays[40:70])
    assert shift.side == 128 and asdict(shift)["side"] == 128
    for xray in xrays[70:]:
        coarse = F.interpolate(F.avg_pool2d(xray[None], 2), scale_factor=2, mode="nearest")[0]
        assert torch.allclose(F.adaptive_avg_pool2d(coarse, 64), F.adaptive_avg_pool2d(xray, 64), atol=1e-6)
        assert shift.p_value(coarse) < LEVEL and shift.distance(coarse) > 10.0 * shift.distance(xray)


@pytest.fixture(scope="module")
def ranks():
    """The test with 400 calibration X-rays of heavy-tailed chi², and statistics and chi² of 400 fresh ones."""
    rng = np.random.default_rng(0)
    statistics, chi2 = rng.gamma(9.0, 0.1, (800, 1)).round(4), rng.lognormal(1.0, 0.5, (800, 1))
    values = np.concatenate([statistics, chi2], axis=1).tolist()
    shift = InputShift([], [], [], [1.0, 1.0]).calibrated(*map(list, zip(*values[:400], strict=True)))
    return shift, values[400:]


@pytest.mark.parametrize("known", [True, False])
def test_the_p_value_is_uniform_with_chi2_and_without_it(ranks, known):
    shift, fresh = ranks
    found = np.array([shift.p_of(own, chi2 if known else None) for own, chi2 in fresh])
    for level in (0.05, 0.1, 0.5, 0.9):
        chance = (2.0 * level * (1.0 - level) / 400) ** 0.5
        assert abs(np.mean(found <= level) - level) <= 3.0 * chance


def test_the_p_value_is_exact_over_all_orders_of_a_small_calibration():
    """Of n + 1 exchangeable X-rays, each in turn the new one, exactly ⌊α (n + 1)⌋ have p <= α."""
    rng = np.random.default_rng(1)
    for _ in range(20):
        pairs = np.column_stack([rng.random(20).round(4), rng.lognormal(0.0, 1.0, 20)]).tolist()
        found = []
        for i in range(20):
            others = [pair for j, pair in enumerate(pairs) if j != i]
            shift = InputShift([], [], [], [1.0, 1.0]).calibrated(*map(list, zip(*others, strict=True)))
            found.append(shift.p_of(*pairs[i]))
        assert sorted(found) == pytest.approx([k / 20 for k in range(1, 21)])


def test_the_unit_of_chi2_does_not_matter_and_a_large_one_is_always_seen(ranks):
    shift, fresh = ranks
    scaled = shift.calibrated(shift.ranked, [8.0 * value for value in shift.chi2])
    for own, chi2 in fresh[:50]:
        assert scaled.p_of(own, 8.0 * chi2) == shift.p_of(own, chi2)
        assert shift.p_of(own, 20.0 * max(shift.chi2)) == 1 / 401
    assert not shift.calibrated(shift.ranked, [*shift.chi2[:-1], None]).chi2  # of one unknown pose


def test_the_volume_of_another_patient_loses_its_interval():
    model = projection_world.fitted()
    cases = projection_world.world(120, seed=1)
    own = [float(projection_world.measure(model, case).chi2(case.predicted[None])) for case in cases]
    shift = InputShift([], [], [], [1.0, 1.0]).calibrated([1.0] * 80, own[:80])
    assert np.mean([shift.p_of(0.5, chi2) < LEVEL for chi2 in own[80:]]) <= 0.2
    for case, wrong in zip(cases[80:], cases[79:-1], strict=True):
        assert shift.p_of(0.5, float(projection_world.measure(model, case).chi2(wrong.predicted[None]))) < LEVEL


def test_unknown_pixels_and_the_resolution_change_little(world):
    shift, fresh = world
    xray = fresh[0]
    hidden = xray.clone()
    hidden[:, :3] = float("nan")
    assert np.isfinite(xray_features(hidden)).all() and np.isfinite(xray_features(torch.full_like(xray, np.nan))).all()
    finer = F.interpolate(xray[None], scale_factor=2, mode="nearest")[0]
    assert shift.distance(finer) == pytest.approx(shift.distance(xray), rel=1e-3)
    assert InputShift.fit(fresh[:10], fresh) is None
    assert xray_features(torch.cat([xray, xray])).shape == (16,)


def test_the_file_decides_between_interval_and_spread(world, tmp_path):
    shift, fresh = world
    described = dict.fromkeys(SAMPLED_WITH)
    intervals = PredictionIntervals({"file": "x", "sha256": "y"}, {**described, "samples": 20}, 0.9, 0.9, {})
    intervals = replace(intervals, shift=json.loads(json.dumps(asdict(shift))))
    like = max(fresh, key=shift.p_value)
    bars = error_bars(described, 20, "y", intervals, xray=like)
    assert bars["name"] == "interval" and bars["input_shift_p"] > 0.5
    bars = error_bars(described, 20, "y", intervals, xray=like**0.6)
    assert bars["name"] == "spread" and "unlike the calibration's" in bars["reason"]
    assert bars["input_shift_p"] < LEVEL
    compared = shift.calibrated(shift.ranked, [1.0 + 0.01 * i for i in range(len(shift.ranked))])
    compared = replace(intervals, shift=json.loads(json.dumps(asdict(compared))))
    for chi2, name in ((1.0, "interval"), (None, "interval"), (9.0, "spread")):
        assert error_bars(described, 20, "y", compared, xray=like, chi2=chi2)["name"] == name
    before = {name: value for name, value in intervals.shift.items() if name != "chi2"}  # a file of an earlier version
    before = replace(intervals, shift=before)
    assert error_bars(described, 20, "y", before, xray=like, chi2=9.0)["name"] == "interval"
    older = replace(intervals, shift=None)
    assert error_bars(described, 20, "y", older, xray=like**0.8)["name"] == "interval"
