"""Re-projection error: the DRR of a volume at the pose of its X-ray against that X-ray, and its share by noise."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dataset.imaging.forward_model import ForwardModel, noise_stream, photons_per_pixel, with_quantum_noise
from evaluation.metrics.base import CaseView, Metric, NotMeasured

NOISE_DRAWS = 4
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


def expected_noise(
    volume: Float[Tensor, "d h w"],
    spacing: tuple,
    pose: tuple,
    size: tuple,
    known: Bool[Tensor, "h w"] | None = None,
    model: ForwardModel = ForwardModel(photons=1.0),  # noqa: B008 (frozen)
) -> Float[Tensor, ""]:
    """`reprojection_error` of the DRR of a volume with quantum noise against that without, the mean of `NOISE_DRAWS`.

    Noise also moves the percentiles of the scale, so a closed form of the noise of single pixels would be too small.
    """
    from dataset.imaging.drr import forward_image, scale_xray  # late, as above

    pose = torch.tensor(pose)
    image = forward_image(volume, spacing, pose, size, model)
    logarithmic = model.image == "log"
    integrals = image if logarithmic else -torch.log(-image)
    photons, quiet, errors = photons_per_pixel(model.photons, pose, size), scale_xray(image, known), []
    for number in range(NOISE_DRAWS):
        noisy = with_quantum_noise(integrals, photons, noise_stream(f"expected noise {number}"))
        errors.append(reprojection_error(scale_xray(noisy if logarithmic else -torch.exp(-noisy), known), quiet))
    return torch.stack(errors).mean()


def _reprojection(view: CaseView) -> Float[Tensor, " m"]:
    """Mean over the views of known pose, by the forward model of the X-rays."""
    model, views = _comparable(view)
    errors = []
    for volume in view.predictions:
        drrs = [_of_view(scaled_drr, view, volume, place, xray, model) for place, xray in views]
        errors.append(reprojection_error(torch.stack(drrs), torch.stack([xray for _, xray in views])).mean())
    return torch.stack(errors)


def _noise(view: CaseView) -> Float[Tensor, " m"]:
    """Mean over the views of known pose; that of the truth, the same for every prediction."""
    model, views = _comparable(view)
    if model.photons is None:
        raise NotMeasured("the X-rays have no quantum noise")
    errors = [_of_view(expected_noise, view, view.truth, place, xray, model) for place, xray in views]
    return torch.stack(errors).mean().expand(len(view.predictions))


def _comparable(view: CaseView) -> tuple[ForwardModel, list[tuple[tuple, Tensor]]]:
    """The forward model, and `((spacing, pose, size), X-ray)` of each view of known pose; else NotMeasured."""
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
    return model, [((view.spacing, tuple(poses[i].tolist()), tuple(xrays[i].shape)), xrays[i]) for i in known]


def _of_view(compute, view: CaseView, volume: Tensor, place: tuple, xray: Float[Tensor, "h w"], model: ForwardModel):
    """`compute(volume, *place, known, model)`, remembered for a whole X-ray; NotMeasured without the renderer."""
    shown = ~xray.isnan()
    try:
        if shown.all():
            return view.remembered(compute, volume, *place, None, model)
        return compute(volume, *place, shown, model)
    except ModuleNotFoundError as error:
        raise NotMeasured(f"{error.name} is not installed") from error


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
    Metric(
        "reprojection_noise",
        "re-projection error by noise",
        _noise,
        "the re-projection error that the quantum noise of the X-ray causes alone, expected for the dose in the "
        "protocol of the data; a part of the floor, the same for all methods",
        best="none",
        digits=4,
        default=True,
    ),
)
