"""Re-projection error: the DRR of a volume at the pose of its X-ray against that X-ray."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dataset.imaging.forward_model import ForwardModel
from evaluation.metrics.base import CaseView, Metric, NotMeasured

FORWARD_MODEL = "forward_model"  # key of the tools: the `ForwardModel` of the X-rays, or None


def reprojection_error(drr: Float[Tensor, "*b h w"], xray: Float[Tensor, "*b h w"]) -> Float[Tensor, "*b"]:
    """Mean absolute difference between a scaled DRR of a volume and its X-ray, both in `[0, 1]`, where it is known."""
    known = ~xray.isnan()
    return torch.where(known, (drr - xray).abs(), 0.0).sum(dim=(-2, -1)) / known.sum(dim=(-2, -1))


def scaled_drr(
    volume: Float[Tensor, "d h w"],
    spacing: tuple,
    pose: tuple,
    size: tuple,
    known: Bool[Tensor, "h w"] | None = None,
    model: ForwardModel = ForwardModel(),  # noqa: B008 (frozen)
) -> Float[Tensor, "h w"]:
    """DRR of HU by a forward model, scaled as X-rays are; NaN if nothing attenuates, as the scale is undefined then.

    With `known`, where its X-ray is known, the DRR is scaled there as that is, and NaN elsewhere.
    """
    from dataset.imaging.drr import forward_image, scale_xray  # late: scoring without it needs no reader of CT

    image = forward_image(volume, spacing, torch.tensor(pose), size, model)
    shown = image if known is None else image[known]
    if not shown.numel() or float(shown.amax() - shown.amin()) < 1e-6:
        return torch.full_like(image, float("nan"))
    return scale_xray(image, known)


def _reprojection(view: CaseView) -> Float[Tensor, " m"]:
    """Mean over the views of known pose, by the forward model of the X-rays."""
    if not view.window.keeps_line_integrals:
        low, high = view.window.low, view.window.high
        raise NotMeasured(f"outside window: [{low:g}, {high:g}] HU clips the lungs and falsifies line integrals")
    model = view.tools.get(FORWARD_MODEL)
    if model is None:
        raise NotMeasured("the data do not state how their X-rays came about")
    if model.why_not_applicable:
        raise NotMeasured(model.why_not_applicable)
    xrays, poses = view.case["xray"].to(view.hu.device).float(), view.case["pose"].cpu()
    known = [i for i, pose in enumerate(poses) if not torch.isnan(pose).any()]
    if not known:
        raise NotMeasured("the poses of the X-rays are unknown")
    places, errors = [(view.spacing, tuple(poses[i].tolist()), tuple(xrays[i].shape)) for i in known], []
    try:
        for volume in view.predictions:
            drrs = [_drr(view, volume, place, xrays[i], model) for i, place in zip(known, places, strict=True)]
            errors.append(reprojection_error(torch.stack(drrs), xrays[known]).mean())
    except ModuleNotFoundError as error:
        raise NotMeasured(f"{error.name} is not installed") from error
    return torch.stack(errors)


def _drr(
    view: CaseView, volume: Tensor, place: tuple, xray: Float[Tensor, "h w"], model: ForwardModel
) -> Float[Tensor, "h w"]:
    shown = ~xray.isnan()
    if shown.all():
        return view.remembered(scaled_drr, volume, *place, None, model)
    return scaled_drr(volume, *place, shown, model)


METRICS = (
    Metric(
        "reprojection",
        "re-projection error",
        _reprojection,
        "mean |DRR of the volume - X-ray|, both scaled to [0, 1], at the pose and by the forward model of the X-ray; "
        "the truth's own error is the floor, due to grid and window; another patient's (shuffled_xray) the ceiling",
        best="low",
        digits=4,
        default=True,
        floor=True,
    ),
)
