"""Slices of an even stack are accepted up to the rounding of their positions; missing slices and shear are refused."""

import numpy as np
import pytest

from dataset.io.slice_positions import fit_stack

UP = np.array([0.0, 0.0, 1.0])


def positions(heights):
    return np.stack([np.full(len(heights), -170.4883), np.full(len(heights), -150.25), heights], axis=1)


@pytest.mark.parametrize("count", [5, 40, 400])
@pytest.mark.parametrize(("gap", "digits"), [(0.625, 1), (1.25, 1), (2.5, 0), (0.7, 2), (3.27, 5), (8.0, 0)])
def test_rounded_positions_have_the_spacing_of_the_whole_stack(gap, digits, count):
    for start in np.linspace(-300.0, -299.0, 7):
        stack = fit_stack(positions(np.round(start + gap * np.arange(count), digits)), UP)
        assert stack.fault == ""
        assert abs(stack.step[2] - gap) * (count - 1) <= 1.5 * 10.0**-digits


@pytest.mark.parametrize("count", [5, 40, 400])
@pytest.mark.parametrize(("gap", "digits"), [(0.625, 1), (1.25, 1), (2.5, 0), (0.7, 2), (3.27, 5), (8.0, 0)])
def test_a_missing_slice_is_found_wherever_it_was(gap, digits, count):
    for missing in np.linspace(1, count - 2, 9).astype(int):
        heights = np.delete(np.round(gap * np.arange(count), digits), missing)
        assert "missing" in fit_stack(positions(heights), UP).fault


def test_spacing_that_changes_is_uneven():
    heights = np.concatenate([np.arange(20) * 1.0, 20 + np.arange(20) * 1.3])
    assert "uneven spacing" in fit_stack(positions(heights), UP).fault


def test_a_stack_that_drifts_is_uneven_though_each_gap_is_nearly_usual():
    gaps = np.repeat([1.0, 1.04], 100)
    assert "uneven" in fit_stack(positions(np.cumsum(gaps)), UP).fault


@pytest.mark.parametrize("degrees", [1.0, 12.0])
def test_shear_is_refused_with_its_angle(degrees):
    sheared = positions(np.arange(30.0))
    sheared[:, 1] += np.tan(np.deg2rad(degrees)) * np.arange(30.0)
    assert f"{degrees:.1f} degrees" in fit_stack(sheared, UP).fault
