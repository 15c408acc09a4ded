"""Structural similarity in 3D."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from evaluation.metrics.base import Metric
from evaluation.metrics.regions import REGIONS

SSIM_WINDOW = 11  # voxels; with SSIM_SIGMA and the constants of Wang et al. 2004
SSIM_SIGMA = 1.5


def ssim(
    prediction: Float[Tensor, "*b d h w"],
    truth: Float[Tensor, "*b d h w"],
    data_range: float,
    low: float = 0.0,
    mask: Bool[Tensor, "d h w"] | None = None,
) -> Float[Tensor, "*b"]:
    """Structural similarity in 3D (Wang et al. 2004) of values in `[low, low + data_range]`, borders left out.

    SSIM compares ratios of local means, so values are measured from `low`, for HU the lower end of the window. Equals
    MONAI's 3D SSIM and is 20 times as fast on a CPU: the Gaussian is a product with a band matrix along each axis.
    (torchmetrics 1.9 differs from MONAI and SciPy in the second digit in 3D.) With `mask` the mean is over the windows
    whose centre it contains; NaN without any.
    """
    # values near [0, 1] keep the precision of variances in float32
    x, y = (prediction - low) / data_range, (truth - low) / data_range
    c1, c2 = 0.01**2, 0.03**2
    mean_x, mean_y, xx, yy, xy = (_blur(field) for field in (x, y, x * x, y * y, x * y))
    variance_x, variance_y = (xx - mean_x**2).clamp(min=0.0), (yy - mean_y**2).clamp(min=0.0)
    covariance = xy - mean_x * mean_y
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity = similarity / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))
    if mask is None:
        return similarity.mean(dim=(-3, -2, -1))
    centres = mask[tuple(slice(ssim_window(n) // 2, ssim_window(n) // 2 + n + 1 - ssim_window(n)) for n in mask.shape)]
    return similarity[..., centres].mean(dim=-1)


def ssim_window(length: int) -> int:
    """Voxels of the SSIM window along an axis of `length` voxels: `SSIM_WINDOW`, or the largest odd one that fits."""
    return min(SSIM_WINDOW, length - 1 + length % 2)


def _blur(field: Float[Tensor, "*b d h w"]) -> Float[Tensor, "*b a e c"]:
    """Gaussian mean over every window inside the volume."""
    for axis in (-1, -2, -3):
        band = _gaussian_band(field.shape[axis]).to(field)
        field = (field.movedim(axis, -1) @ band).movedim(-1, axis)
    return field


def _gaussian_band(length: int) -> Float[Tensor, "n m"]:
    """Matrix whose column j holds the Gaussian weights of the window that begins at voxel j."""
    window = ssim_window(length)
    weights = torch.tensor([math.exp(-(((k - window // 2) / SSIM_SIGMA) ** 2) / 2.0) for k in range(window)])
    band = torch.zeros(length, length - window + 1)
    for start in range(band.shape[1]):
        band[start : start + window, start] = weights / weights.sum()
    return band


METRICS = (
    Metric(
        "ssim",
        "SSIM",
        lambda view: ssim(view.predictions, view.truth, view.window.width, view.window.low, view.scanned),
        f"3D, of HU minus the lower end of the window; Gaussian window of {SSIM_WINDOW} voxels (shorter on shorter "
        f"axes), sigma {SSIM_SIGMA:g}, K 0.01 and 0.03, borders left out",
        default=True,
    ),
    Metric(
        "ssim_body",
        "SSIM in the body",
        lambda view: ssim(
            view.predictions, view.truth, view.window.width, low=view.window.low, mask=view.region("body")
        ),
        f"ssim over the windows whose centre lies in {REGIONS['body'].definition}",
    ),
)
