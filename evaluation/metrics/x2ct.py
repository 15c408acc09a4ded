"""Metrics of X2CT-GAN (Ying et al., CVPR 2019), as its test.py computes them, for numbers beside those of its papers.

HU + 1024 are clipped to [0, 2500]. MAE, MSE, cosine similarity and SSIM are of values in [0, 1]; SSIM is that of
scikit-image for each slice (7×7, uniform, unbiased covariance), averaged over the slices of an axis and over the three
axes. PSNR is of whole HU with a peak of 4095, although their range is 2500, over the volume or averaged likewise.
"""

import numpy as np
import torch
from jaxtyping import Float
from skimage.metrics import structural_similarity
from torch import Tensor

from evaluation.metrics.base import CaseView, Metric, NotMeasured

OFFSET, RANGE, PEAK = 1024.0, 2500.0, 4095.0
EQUAL_DB = 100.0  # PSNR of equal slices
AXES = (0, 1, 2)


def normalised(hu: Float[Tensor, "*m d h w"]) -> Float[np.ndarray, "*m d h w"]:
    """HU as float64 values in [0, 1], rounded to 6 digits."""
    return np.round((hu.cpu().numpy().astype(np.float64) + OFFSET).clip(0.0, RANGE) / RANGE, 6)


def psnr(truth: np.ndarray, prediction: np.ndarray, axis: int | None = None) -> float:
    """PSNR in dB of values in [0, 1]; with `axis` the mean over its slices."""
    squared = np.square(_whole(truth) - _whole(prediction))
    error = squared.mean(axis=None if axis is None else tuple(other for other in AXES if other != axis))
    with np.errstate(divide="ignore"):
        return float(np.where(error == 0, EQUAL_DB, 20.0 * np.log10(PEAK / np.sqrt(error))).mean())


def ssim(truth: np.ndarray, prediction: np.ndarray, axis: int) -> float:
    """SSIM of values in [0, 1], averaged over the slices of an axis."""
    return float(structural_similarity(truth, prediction, data_range=1.0, channel_axis=axis))


def cosine(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Cosine of the angle between two volumes as vectors."""
    return float((truth * prediction).sum() / max(np.linalg.norm(truth) * np.linalg.norm(prediction), 1e-12))


def _whole(values: np.ndarray) -> np.ndarray:
    return np.trunc(values * RANGE)


def _over_axes(function):
    return lambda truth, prediction: float(np.mean([function(truth, prediction, axis) for axis in AXES]))


def _metric(function):
    def compute(view: CaseView) -> Float[Tensor, " m"]:
        if (view.window.low, view.window.high) != (-OFFSET, RANGE - OFFSET):
            raise NotMeasured(f"outside window: X2CT-GAN's metrics need window=[{-OFFSET:g},{RANGE - OFFSET:g}]")
        if min(view.truth.shape) < 7:
            raise NotMeasured("a volume smaller than the 7 voxels of X2CT-GAN's SSIM")
        truth = normalised(view.truth)
        return torch.tensor([function(truth, normalised(one)) for one in view.predictions], dtype=torch.float32)

    return compute


X2CT_METRICS = METRICS = (
    Metric("x2ct_psnr_3d", "PSNR-3D, X2CT-GAN", _metric(psnr), "of whole HU with peak 4095, over the volume", "dB"),
    Metric("x2ct_psnr", "PSNR, X2CT-GAN", _metric(_over_axes(psnr)),
           "of whole HU with peak 4095, averaged over slices and axes", "dB"),
    Metric("x2ct_ssim", "SSIM, X2CT-GAN", _metric(_over_axes(ssim)), "2D, 7×7, averaged over slices and axes"),
    Metric("x2ct_mae", "MAE, X2CT-GAN", _metric(lambda t, p: float(np.abs(t - p).mean())),
           "of values in [0, 1] over 2500 HU", "", "low", 4),
    Metric("x2ct_mse", "MSE, X2CT-GAN", _metric(lambda t, p: float(np.square(t - p).mean())),
           "of values in [0, 1] over 2500 HU", "", "low", 5),
    Metric("x2ct_cosine", "cosine similarity, X2CT-GAN", _metric(cosine), "of values in [0, 1]", "", "high", 4),
)  # fmt: skip
