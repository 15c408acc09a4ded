"""Re-projection error: the DRR of a volume at the pose of its X-ray against that X-ray."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from evaluation.metrics.base import CaseView, Metric, NotMeasured


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
) -> Float[Tensor, "h w"]:
    """DRR of HU on the grey scale of X-rays; NaN if nothing attenuates, because the scale is undefined then.

    With `known`, where its X-ray is known, the DRR is scaled there as that is, and NaN elsewhere.
    """
    from dataset.imaging.drr import line_integrals, scale_xray  # late: the ray caster is optional

    # One sample per voxel along the beam: half the time, and 0.0001 away from twice as many.
    integrals = line_integrals(volume, spacing, torch.tensor(pose), size, samples=max(volume.shape))
    shown = integrals if known is None else integrals[known]
    if not shown.numel() or float(shown.amax() - shown.amin()) < 1e-6:
        return torch.full_like(integrals, float("nan"))
    return scale_xray(integrals, known)


def _reprojection(view: CaseView) -> Float[Tensor, " m"]:
    """Mean over the views of known pose; DRRs must be logarithmic ones of the unchanged CT."""
    if not view.window.keeps_line_integrals:
        low, high = view.window.low, view.window.high
        raise NotMeasured(f"outside window: [{low:g}, {high:g}] HU clips the lungs and falsifies line integrals")
    drr = view.tools.get("drr") or {}
    if drr.get("image", "log") != "log" or drr.get("remove_iodine"):
        raise NotMeasured("the X-rays have another grey scale or show a CT without iodine (dataset.drr_…)")
    xrays, poses = view.case["xray"].to(view.hu.device).float(), view.case["pose"].cpu()
    known = [i for i, pose in enumerate(poses) if not torch.isnan(pose).any()]
    if not known:
        raise NotMeasured("the poses of the X-rays are unknown")
    places, errors = [(view.spacing, tuple(poses[i].tolist()), tuple(xrays[i].shape)) for i in known], []
    try:
        for volume in view.predictions:
            drrs = [_drr(view, volume, place, xrays[i]) for i, place in zip(known, places, strict=True)]
            drrs = torch.stack(drrs)
            errors.append(reprojection_error(drrs, xrays[known]).mean())
    except ModuleNotFoundError as error:
        raise NotMeasured(f"{error.name} is not installed") from error
    return torch.stack(errors)


def _drr(view: CaseView, volume: Tensor, place: tuple, xray: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    shown = ~xray.isnan()
    return view.remembered(scaled_drr, volume, *place) if shown.all() else scaled_drr(volume, *place, shown)


METRICS = (
    Metric(
        "reprojection",
        "re-projection error",
        _reprojection,
        "mean |DRR of the volume - X-ray|, both scaled to [0, 1], at the pose of the X-ray; controls: the truth's own "
        "error is the floor, the volume of another patient's X-ray (shuffled_xray) the ceiling",
        best="low",
        digits=4,
        default=True,
        floor=True,
    ),
)
