"""Metrics of one volume against another: pure functions on tensors, and beside each its entry in the registry.

A file holds one idea and a tuple `METRICS`; `registry.catalogue()` finds every file of this folder.
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
