"""Bounds of the lung's depth: certain pixels, the recess below the lungs, and what the film does not show."""

import numpy as np
import pytest
import torch

from dataset.imaging.lung_network import LEVELS_MM, SIZE, FoundLungs
from dataset.xray.lung_alignment import LungMap
from dataset.xray.lung_depth import HIGH_MM, LOW_MM, NONE_MM, PIXELS, RECESS_MM, SUMS, lung_depth


def lungs(rows: slice = slice(32, 96), certainty: float = 1.0) -> FoundLungs:
    probability = np.zeros((2, len(LEVELS_MM), SIZE, SIZE), dtype=np.float32)
    probability[0, :, rows, 20:50] = probability[1, :, rows, 70:110] = certainty
    return FoundLungs(probability)


def test_the_table_is_ordered():
    assert len(SUMS) == len(LOW_MM) == len(HIGH_MM) == len(RECESS_MM) and max(SUMS) == len(LEVELS_MM)
    assert all(low <= high <= recess for low, high, recess in zip(LOW_MM, HIGH_MM, RECESS_MM, strict=True))
    for values in (SUMS, LOW_MM, HIGH_MM, RECESS_MM):
        assert list(values) == sorted(values)


def test_certain_lung_has_no_upper_bound_and_certain_tissue_hardly_any_lung():
    depth = lung_depth(lungs(), None)
    assert depth.low.shape == (PIXELS, PIXELS) and (depth.low <= depth.high).all()
    inside, beside, below = (20, 15), (20, 31), (60, 15)
    assert depth.low[inside] >= 60.0 and depth.high[inside] == NONE_MM
    assert depth.low[beside] == 0.0 and depth.high[beside] <= 5.0
    assert depth.high[beside] < depth.high[below] < LEVELS_MM[-1]


def test_doubtful_pixels_have_wide_bounds():
    depth = lung_depth(lungs(certainty=0.5), None)
    assert 0.0 < depth.low[20, 15] < LEVELS_MM[-1] < depth.high[20, 15] < NONE_MM


def test_the_bounds_are_in_the_frame_of_the_alignment_and_unknown_beyond_the_film():
    moved = lung_depth(lungs(), LungMap((0.25, 0.75, 0.0, 1.0), (0.5, 1.0, 0.0, 1.0)))
    assert moved.low[: PIXELS // 4 - 1].isnan().all() and moved.high[: PIXELS // 4 - 1].isnan().all()
    plain = lung_depth(lungs(), None)
    torch.testing.assert_close(moved.low[20:], plain.low[4:48], atol=1e-3, rtol=0)
    assert not plain.low.isnan().any()
    assert moved.low[40, 15] == pytest.approx(float(plain.low[24, 15]))
