"""Whether slices make a volume, by their positions: even spacing, missing slices and shear."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from dataset.imaging.volume import SHEAR_DEGREES

UNEVEN = 0.05  # of the spacing: distance of a slice from its place in an even stack
ROUNDED = 0.21  # of the spacing: largest rounding error of positions that are accepted, as of 2.5 mm in whole mm
FIT_ERROR = 1.2  # the fitted line differs from the true one by a part of the rounding error
DIGITS = 5  # positions with more decimals are not rounded


class Stack(NamedTuple):
    """The line through the positions of slices, and why they make no volume."""

    first: Float[np.ndarray, "3"]  # mm, place of the first slice
    step: Float[np.ndarray, "3"]  # mm from slice to slice
    fault: str  # "" for an even stack without shear


def fit_stack(positions: Float[np.ndarray, "n 3"], normal: Float[np.ndarray, "3"]) -> Stack:
    """The even stack nearest to slices in the order of their heights, of which there are two or more.

    Each slice has to be within `UNEVEN` of the spacing of its place, or within the rounding error of the positions.
    """
    positions, index = np.asarray(positions, dtype=float), np.arange(len(positions))
    step, first = np.polyfit(index, positions, 1)
    spacing, heights = float(step @ normal), positions @ normal
    tilt = float(np.rad2deg(np.arccos(np.clip(spacing / np.linalg.norm(step), -1.0, 1.0))))
    if tilt > SHEAR_DEGREES:
        remedy = "export a reconstruction without tilt"
        return Stack(first, step, f"gantry tilt, the slices are sheared by {tilt:.1f} degrees; {remedy}")
    rounding = FIT_ERROR * _rounding(positions, ROUNDED * spacing)
    off = float(np.ptp(heights - spacing * index)) / 2.0
    return Stack(first, step, _uneven(np.diff(heights), rounding) if off > max(UNEVEN * spacing, rounding) else "")


def _rounding(positions: Float[np.ndarray, "n 3"], largest: float) -> float:
    """Half of the last decimal of the coordinates that change from slice to slice; 0 if it exceeds `largest`."""
    moving = positions[:, np.ptp(positions, axis=0) > 10.0**-DIGITS]
    for digits in range(DIGITS):
        if np.abs(moving - np.round(moving, digits)).max(initial=0.0) < 10.0**-DIGITS / 2.0:
            half = 0.5 * 10.0**-digits
            return half if half <= largest else 0.0
    return 0.0


def _uneven(gaps: np.ndarray, rounding: float) -> str:
    """The fault of a stack with these gaps in mm."""
    usual = float(np.median(gaps))
    tolerance = UNEVEN * usual + 2.0 * rounding
    odd = np.abs(gaps - usual) > tolerance
    whole = np.abs(gaps - usual * np.rint(gaps / usual)) <= tolerance
    if (odd & whole & (gaps > usual)).any() and not (odd & ~whole).any():
        missing = int(np.rint(gaps[odd] / usual - 1).sum())
        slice_is = "a slice is" if missing == 1 else f"{missing} slices are"
        return (
            f"{slice_is} missing or damaged in the series: a gap of {gaps.max():.4g} mm where slices are usually "
            f"{usual:.4g} mm apart; export the whole series again"
        )
    return (
        f"slices are {gaps.min():.4g} to {gaps.max():.4g} mm apart, usually {usual:.4g} "
        f"({int(odd.sum())} uneven gaps): uneven spacing or missing slices; export one even series"
    )
