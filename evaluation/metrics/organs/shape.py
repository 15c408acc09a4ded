"""Volume, place and surface of a mask against that of the truth, for lungs and body as segmented in both volumes."""

import warnings
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from evaluation.metrics.base import CaseView, Metric, NotMeasured
from evaluation.metrics.dice import lungs_in_window, predicted_bodies

warnings.filterwarnings("ignore", "monai.metrics.utils get_mask_edges")  # MONAI calls its own deprecated option
Mask = Bool[Tensor, "d h w"]
Spacing = tuple[float, float, float]
Measure = Callable[[Mask, Mask, Spacing], float]


def volume_error(found: Mask, truth: Mask, spacing: Spacing) -> float:
    """Absolute difference of the volumes in % of the truth's; 100 for an empty mask."""
    return 100.0 * abs(int(found.sum()) - int(truth.sum())) / int(truth.sum())


def centroid_shift(found: Mask, truth: Mask, spacing: Spacing) -> float:
    """Distance of the centroids in mm; NaN for an empty mask."""
    steps = torch.tensor(spacing)
    places = [mask.cpu().nonzero().float().mean(dim=0) * steps for mask in (found, truth)]
    return float((places[0] - places[1]).norm())


def hausdorff_95(found: Mask, truth: Mask, spacing: Spacing) -> float:
    """95 % Hausdorff distance of the surfaces in mm, the larger of both directions (MONAI); NaN for an empty mask."""
    from monai.metrics import compute_hausdorff_distance  # late: scoring without it needs no MONAI

    if not found.any():
        return float("nan")
    masks = (mask[None, None].cpu().float() for mask in (found, truth))
    return float(compute_hausdorff_distance(*masks, include_background=True, percentile=95, spacing=spacing))


MEASURES: dict[str, tuple[Measure, str, str, str]] = {
    "volume_error": (volume_error, "volume error", "%", "|volume - truth's| in % of the truth's"),
    "centroid_mm": (centroid_shift, "centroid shift", "mm", "distance of the centroids"),
    "hd95_mm": (hausdorff_95, "95 % Hausdorff", "mm", "95 % Hausdorff distance of the surfaces, by MONAI"),
}


def _lungs(view: CaseView) -> tuple[Bool[Tensor, "m d h w"], Mask]:
    lungs_in_window(view)
    return view.counted(view.predicted_lungs), view.counted(view.segmented_lungs)


def _body(view: CaseView) -> tuple[Bool[Tensor, "m d h w"], Mask]:
    return predicted_bodies(view), view.region("body")


def _shape(compute: Measure, masks: Callable) -> Callable[[CaseView], Float[Tensor, " m"]]:
    def metric(view: CaseView) -> Float[Tensor, " m"]:
        found, truth = masks(view)
        if not truth.any():
            raise NotMeasured("the truth shows no lungs")
        return torch.tensor([compute(mask, truth, view.spacing) for mask in found])

    return metric


METRICS = tuple(
    Metric(
        f"{organ}_{name}",
        f"{organ} {label}",
        _shape(compute, masks),
        f"{text}; {how} in both volumes",
        unit,
        "low",
        1,
    )
    for organ, masks, how in (
        ("lung", _lungs, "lungs by segment_lungs"),
        ("body", _body, "largest part above -500 HU, filled slice by slice,"),
    )
    for name, (compute, label, unit, text) in MEASURES.items()
)
