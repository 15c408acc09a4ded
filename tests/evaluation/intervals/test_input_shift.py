"""The test of input shift: X-rays of the calibration's kind pass it, changed ones and another population do not."""

import json
from dataclasses import asdict, replace

import numpy as np
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
    old = InputShift(shift.mean, shift.whitening, shift.curve[:length] + [0.0], None, [], distances, exponents)
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
    older = replace(intervals, shift=None)
    assert error_bars(described, 20, "y", older, xray=like**0.8)["name"] == "interval"
