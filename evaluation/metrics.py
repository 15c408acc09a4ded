"""Image metrics of one volume against another, as pure functions that return one number per volume.

Volumes are `(…, D, H, W)` in HU; every leading axis is a batch axis and survives in the result.
"""

import math

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import ndimage
from torch import Tensor

PSNR_CAP_DB = 100.0  # identical volumes would give infinity, which no mean and no JSON survives
SSIM_WINDOW = 11  # voxels; with SSIM_SIGMA and the constants of Wang et al. 2004
SSIM_SIGMA = 1.5
BODY_HU = -500.0  # halfway between air and water: the skin


def mae_hu(
    prediction: Float[Tensor, "*b d h w"], truth: Float[Tensor, "*b d h w"], mask: Bool[Tensor, "d h w"] | None = None
) -> Float[Tensor, "*b"]:
    """Mean absolute difference in HU, inside `mask` if there is one (NaN if it is empty)."""
    difference = (prediction - truth).abs()
    return difference.mean(dim=(-3, -2, -1)) if mask is None else difference[..., mask].mean(dim=-1)


def psnr(
    prediction: Float[Tensor, "*b d h w"], truth: Float[Tensor, "*b d h w"], data_range: float
) -> Float[Tensor, "*b"]:
    """Peak signal-to-noise ratio in dB, `10 log10(data_range² / MSE)`, at most `PSNR_CAP_DB`.

    The squared error is averaged inside each volume only: the mean over volumes is a mean of decibels.
    """
    mse = (prediction - truth).square().mean(dim=(-3, -2, -1))
    floor = data_range**2 / 10.0 ** (PSNR_CAP_DB / 10.0)
    return 10.0 * torch.log10(data_range**2 / mse.clamp(min=floor))


def ssim(
    prediction: Float[Tensor, "*b d h w"], truth: Float[Tensor, "*b d h w"], data_range: float, low: float = 0.0
) -> Float[Tensor, "*b"]:
    """Structural similarity in 3D (Wang et al. 2004), Gaussian window of `ssim_window` voxels, borders left out.

    Values run from `low` to `low + data_range`. SSIM compares local means as ratios, so they are counted from `low`:
    for HU give the lower end of the window. The same number as MONAI's 3D SSIM, 20 times as fast on a CPU: the
    Gaussian is applied axis by axis as a product with a band matrix. (torchmetrics 1.9 differs from MONAI and SciPy in
    the second digit in 3D.)
    """
    # Near [0, 1] the variances keep their digits in float32. One truth may serve many predictions: no broadcast yet.
    x, y = (prediction - low) / data_range, (truth - low) / data_range
    c1, c2 = 0.01**2, 0.03**2
    mean_x, mean_y, xx, yy, xy = (_blur(field) for field in (x, y, x * x, y * y, x * y))
    variance_x, variance_y = (xx - mean_x**2).clamp(min=0.0), (yy - mean_y**2).clamp(min=0.0)
    covariance = xy - mean_x * mean_y
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity = similarity / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))
    return similarity.mean(dim=(-3, -2, -1))


def ssim_window(length: int) -> int:
    """Voxels of the SSIM window along an axis of `length` voxels: `SSIM_WINDOW`, or the largest odd one that fits."""
    return min(SSIM_WINDOW, length - 1 + length % 2)


def dice(prediction: Bool[Tensor, "*b d h w"], truth: Bool[Tensor, "*b d h w"]) -> Float[Tensor, "*b"]:
    """Overlap of two masks, `2|A∩B| / (|A|+|B|)`; 1 where both are empty."""
    both = (prediction & truth).sum(dim=(-3, -2, -1)).double()
    either = prediction.sum(dim=(-3, -2, -1)).double() + truth.sum(dim=(-3, -2, -1)).double()
    return torch.where(either > 0, 2.0 * both / either.clamp(min=1.0), torch.ones_like(either)).float()


def reprojection_error(drr: Float[Tensor, "*b h w"], xray: Float[Tensor, "*b h w"]) -> Float[Tensor, "*b"]:
    """Mean absolute difference between a scaled DRR of a volume and the X-ray it should explain, both in `[0, 1]`."""
    return (drr - xray).abs().mean(dim=(-2, -1))


def body_mask(hu: Float[Tensor, "d h w"]) -> Bool[Tensor, "d h w"]:
    """The patient, lungs included: the largest connected part above `BODY_HU`, filled slice by slice.

    `hu` must not have been windowed. The mask is empty if nothing is denser than air.
    """
    dense, count = ndimage.label(hu.numpy() > BODY_HU)
    if count == 0:
        return torch.zeros(hu.shape, dtype=torch.bool)
    largest = dense == np.bincount(dense.ravel())[1:].argmax() + 1
    return torch.from_numpy(np.stack([ndimage.binary_fill_holes(plane) for plane in largest]))


def _blur(field: Float[Tensor, "*b d h w"]) -> Float[Tensor, "*b a e c"]:
    """Gaussian mean over every window that lies fully inside the volume."""
    for axis in (-1, -2, -3):
        band = _gaussian_band(field.shape[axis]).to(field)
        field = torch.movedim(torch.movedim(field, axis, -1) @ band, -1, axis)
    return field


def _gaussian_band(length: int) -> Float[Tensor, "n m"]:
    """Matrix whose column j holds the Gaussian weights of the window that begins at voxel j."""
    window = ssim_window(length)
    offsets = range(-(window // 2), window // 2 + 1)
    weights = torch.tensor([math.exp(-((k / SSIM_SIGMA) ** 2) / 2.0) for k in offsets])
    band = torch.zeros(length, length - window + 1)
    for start in range(band.shape[1]):
        band[start : start + window, start] = weights / weights.sum()
    return band
