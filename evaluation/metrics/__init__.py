"""Metrics of one volume against another: pure functions on tensors and their registry entries.

Every file holds a tuple `METRICS`; `catalogue.catalogue()` collects them.
"""

from evaluation.metrics.dice import dice
from evaluation.metrics.regions import body_mask
from evaluation.metrics.reprojection import reprojection_error
from evaluation.metrics.ssim import SSIM_SIGMA, ssim, ssim_window
from evaluation.metrics.voxel_error import PSNR_CAP_DB, mae_hu, psnr, rmse_hu

__all__ = [
    "PSNR_CAP_DB",
    "SSIM_SIGMA",
    "body_mask",
    "dice",
    "mae_hu",
    "psnr",
    "reprojection_error",
    "rmse_hu",
    "ssim",
    "ssim_window",
]
