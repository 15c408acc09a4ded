"""Matched filters: the contrast of a known signal at its place, and the best match of a ball in a region.

Both have zero mean over the signal and its surroundings, so a constant added to a volume changes nothing.
"""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import binary_dilation
from scipy.signal import fftconvolve

SURROUNDINGS = 2  # voxels or pixels around a signal
WEAK = 0.05  # share of the largest change below which a voxel does not belong to a signal


def contrast(image: Float[np.ndarray, "*n"], signal: Float[np.ndarray, "*n"]) -> float:
    """Share of `signal` that `image` contains: 0 without, 1 for `background + signal`, up to the background.

    NaN for a signal of zeros.

    The filter is the signal minus its mean over the signal and its surroundings, the best linear detector in white
    noise on an unknown constant background (Barrett and Myers, "Foundations of Image Science", 2004, section 13.2).
    """
    strength = np.abs(signal)
    if not strength.any():
        return float("nan")
    region = binary_dilation(strength > WEAK * strength.max(), iterations=SURROUNDINGS)
    known = signal[region].astype(np.float64)
    weights = known - known.mean()
    return float(weights @ image[region] / (weights @ known))


def best_contrast(image: Float[np.ndarray, "*n"], signals: Iterable[Float[np.ndarray, "*n"]]) -> float:
    """The largest `contrast` of several signals, the places of a blind search; NaN if all signals are zeros."""
    return float(np.fmax.reduce([contrast(image, signal) for signal in signals]))


def ball_search(
    volume: Float[np.ndarray, "d h w"],
    region: Bool[np.ndarray, "d h w"],
    diameter: float,
    spacing: tuple[float, float, float],
) -> float:
    """The largest mean HU of a ball of `diameter` mm above that of the shell around it, over centres in `region`.

    `spacing` is in mm `(D, H, W)`; the shell has the volume of the ball and at least a voxel.
    """
    outer = max(diameter / 2 * 2 ** (1 / 3), diameter / 2 + max(spacing))
    reach = [int(np.ceil(outer / s)) for s in spacing]
    axes = (np.arange(-n, n + 1) * s for n, s in zip(reach, spacing, strict=True))
    radius = np.sqrt(sum(a**2 for a in np.meshgrid(*axes, indexing="ij")))
    ball, shell = radius <= diameter / 2, (radius > diameter / 2) & (radius <= outer)
    kernel = ball / ball.sum() - shell / shell.sum()
    padded = np.pad(volume.astype(np.float64), [(n, n) for n in reach], mode="edge")
    return float(fftconvolve(padded, kernel, mode="valid")[region].max())
