"""Error of HU voxel by voxel: mean absolute and root mean square error, peak signal-to-noise ratio.

Volumes are `(…, D, H, W)` in HU; every leading axis is a batch axis and survives in the result.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from evaluation.metrics.base import CaseView, Metric
from evaluation.metrics.regions import REGIONS

PSNR_CAP_DB = 100.0  # identical volumes would give infinity, which no mean and no JSON survives


def mae_hu(
    prediction: Float[Tensor, "*b d h w"], truth: Float[Tensor, "*b d h w"], mask: Bool[Tensor, "d h w"] | None = None
) -> Float[Tensor, "*b"]:
    """Mean absolute difference in HU, inside `mask` if there is one (NaN if it is empty)."""
    difference = (prediction - truth).abs()
    return difference.mean(dim=(-3, -2, -1)) if mask is None else difference[..., mask].mean(dim=-1)


def rmse_hu(
    prediction: Float[Tensor, "*b d h w"], truth: Float[Tensor, "*b d h w"], mask: Bool[Tensor, "d h w"] | None = None
) -> Float[Tensor, "*b"]:
    """Root of the mean squared difference in HU, inside `mask` if there is one (NaN if it is empty)."""
    square = (prediction - truth).square()
    return (square.mean(dim=(-3, -2, -1)) if mask is None else square[..., mask].mean(dim=-1)).sqrt()


def psnr(
    prediction: Float[Tensor, "*b d h w"], truth: Float[Tensor, "*b d h w"], data_range: float
) -> Float[Tensor, "*b"]:
    """Peak signal-to-noise ratio in dB, `10 log10(data_range² / MSE)`, at most `PSNR_CAP_DB`.

    The squared error is averaged inside each volume only: the mean over volumes is a mean of decibels.
    """
    mse = (prediction - truth).square().mean(dim=(-3, -2, -1))
    floor = data_range**2 / 10.0 ** (PSNR_CAP_DB / 10.0)
    return 10.0 * torch.log10(data_range**2 / mse.clamp(min=floor))


def _in_region(measure, region: str):
    def compute(view: CaseView) -> Float[Tensor, " m"]:
        return measure(view.predictions, view.truth, view.region(region))

    return compute


METRICS = (
    Metric(
        "psnr",
        "PSNR, dB",
        "dB",
        "high",
        2,
        lambda view: psnr(view.predictions, view.truth, view.window.width),
        f"10 log10(range^2 / MSE), dB, at most {PSNR_CAP_DB:g}",
        default=True,
    ),
    Metric(
        "mae_hu",
        "MAE, HU",
        "HU",
        "low",
        1,
        lambda view: mae_hu(view.predictions, view.truth),
        "mean absolute difference, whole volume",
        default=True,
    ),
    Metric(
        "rmse_hu",
        "RMSE, HU",
        "HU",
        "low",
        1,
        lambda view: rmse_hu(view.predictions, view.truth),
        "root of the mean squared difference, whole volume",
    ),
    *(
        Metric(
            f"mae_hu_{name}",
            f"MAE in {region.title}, HU",
            "HU",
            "low",
            1,
            _in_region(mae_hu, name),
            f"mean absolute difference inside {region.definition}",
            default=name in ("body", "lungs"),
        )
        for name, region in REGIONS.items()
    ),
    *(
        Metric(
            f"rmse_hu_{name}",
            f"RMSE in {region.title}, HU",
            "HU",
            "low",
            1,
            _in_region(rmse_hu, name),
            f"root of the mean squared difference inside {region.definition}",
        )
        for name, region in REGIONS.items()
    ),
)
