"""Metrics as torchmetrics classes, for training loops: a class only accumulates, the functions do the sums."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torchmetrics import Metric

from evaluation.metrics.ssim import ssim
from evaluation.metrics.voxel_error import mae_hu, psnr


class VolumeMean(Metric):
    """Mean over volumes of a function that gives one number per volume; right over batches and processes.

    Args:
        function: of prediction and truth `(b, …, D, H, W)`.
    """

    full_state_update = False

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], **kwargs):
        super().__init__(**kwargs)
        self.function = function
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, truth: Tensor) -> None:
        """Adds a batch."""
        values = self.function(prediction, truth)
        self.total += values.double().sum()
        self.count += values.numel()

    def compute(self) -> Tensor:
        """The mean of all volumes so far; NaN before the first."""
        return (self.total / self.count).float()


class VolumePSNR(VolumeMean):
    """Mean of the PSNR of each volume in dB: a mean of decibels, which torchmetrics' own PSNR is not."""

    higher_is_better = True

    def __init__(self, data_range: float, **kwargs):
        super().__init__(partial(psnr, data_range=data_range), **kwargs)


class VolumeSSIM(VolumeMean):
    """Mean 3D SSIM; values run from `low` to `low + data_range`."""

    higher_is_better = True

    def __init__(self, data_range: float, low: float = 0.0, **kwargs):
        super().__init__(partial(ssim, data_range=data_range, low=low), **kwargs)


class VolumeMAE(VolumeMean):
    """Mean absolute error in the unit of the volumes."""

    higher_is_better = False

    def __init__(self, **kwargs):
        super().__init__(mae_hu, **kwargs)
