"""Mean absolute error, root mean square error and peak signal-to-noise ratio of volumes in HU."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from evaluation.metrics.base import Metric
from evaluation.metrics.regions import REGIONS

PSNR_CAP_DB = 100.0  # identical volumes would give infinity


def mae_hu(
    prediction: Float[Tensor, "*b d h w"], truth: Float[Tensor, "*b d h w"], mask: Bool[Tensor, "d h w"] | None = None
) -> Float[Tensor, "*b"]:
    """Mean absolute difference in HU, inside `mask` if given; NaN if that is empty."""
    difference = (prediction - truth).abs()
    return difference.mean(dim=(-3, -2, -1)) if mask is None else difference[..., mask].mean(dim=-1)


def rmse_hu(
    prediction: Float[Tensor, "*b d h w"], truth: Float[Tensor, "*b d h w"], mask: Bool[Tensor, "d h w"] | None = None
) -> Float[Tensor, "*b"]:
    """Root of the mean squared difference in HU, inside `mask` if given; NaN if that is empty."""
    square = (prediction - truth).square()
    return (square.mean(dim=(-3, -2, -1)) if mask is None else square[..., mask].mean(dim=-1)).sqrt()


def psnr(
    prediction: Float[Tensor, "*b d h w"],
    truth: Float[Tensor, "*b d h w"],
    data_range: float,
    mask: Bool[Tensor, "d h w"] | None = None,
) -> Float[Tensor, "*b"]:
    """Peak signal-to-noise ratio of each volume in dB, `10 log10(data_range² / MSE)`, at most `PSNR_CAP_DB`.

    The squared error is averaged inside `mask` if given; NaN if that is empty.
    """
    mse = rmse_hu(prediction, truth, mask).square()
    floor = data_range**2 / 10.0 ** (PSNR_CAP_DB / 10.0)
    return 10.0 * torch.log10(data_range**2 / mse.clamp(min=floor))


def _in_region(measure, region: str):
    return lambda view: measure(view.predictions, view.truth, view.region(region))


HU_ERROR = {"unit": "HU", "best": "low", "digits": 1}


METRICS = (
    Metric(
        "psnr",
        "PSNR, dB",
        lambda view: psnr(view.predictions, view.truth, view.window.width, view.scanned),
        f"10 log10(range^2 / MSE), dB, at most {PSNR_CAP_DB:g}",
        unit="dB",
        digits=2,
        default=True,
    ),
    Metric(
        "psnr_body",
        "PSNR in the body, dB",
        lambda view: psnr(view.predictions, view.truth, view.window.width, view.region("body")),
        f"10 log10(range^2 / MSE) inside {REGIONS['body'].definition}, dB, at most {PSNR_CAP_DB:g}",
        unit="dB",
        digits=2,
    ),
    Metric(
        "mae_hu",
        "MAE, HU",
        lambda view: mae_hu(view.predictions, view.truth, view.scanned),
        "mean absolute difference, whole volume",
        **HU_ERROR,
        default=True,
    ),
    Metric(
        "rmse_hu",
        "RMSE, HU",
        lambda view: rmse_hu(view.predictions, view.truth, view.scanned),
        "root of the mean squared difference, whole volume",
        **HU_ERROR,
    ),
    *(
        Metric(
            f"{measure.__name__}_{name}",
            f"{label} in {region.title}, HU",
            _in_region(measure, name),
            f"{text} inside {region.definition}",
            **HU_ERROR,
            default=label == "MAE" and name in ("body", "lungs"),
        )
        for measure, label, text in (
            (mae_hu, "MAE", "mean absolute difference"),
            (rmse_hu, "RMSE", "root of the mean squared difference"),
        )
        for name, region in REGIONS.items()
    ),
)
