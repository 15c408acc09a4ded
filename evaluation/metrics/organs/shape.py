"""Volume, place and surface of a mask against that of the truth, for lungs and body as segmented in both volumes."""

import warnings
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from evaluation.metrics.base import CaseView, Metric, NotMeasured
from evaluation.metrics.dice import lungs_in_window
from evaluation.metrics.regions import body_mask

warnings.filterwarnings("ignore", "monai.metrics.utils get_mask_edges")  # MONAI calls its own deprecated option
Mask = Bool[Tensor, "d h w"]
Spacing = tuple[float, float, float]


def volume_error(found: Mask, truth: Mask, spacing: Spacing) -> float:
    """Absolute difference of the volumes in % of the truth's."""
    return 100.0 * abs(int(found.sum()) - int(truth.sum())) / int(truth.sum())


def centroid_shift(found: Mask, truth: Mask, spacing: Spacing) -> float:
    """Distance of the centroids in mm."""
    steps = torch.tensor(spacing)
    places = [mask.cpu().nonzero().float().mean(dim=0) * steps for mask in (found, truth)]
    return float((places[0] - places[1]).norm())


def hausdorff_95(found: Mask, truth: Mask, spacing: Spacing) -> float:
    """95 % Hausdorff distance of the surfaces in mm, the larger of both directions (MONAI)."""
    from monai.metrics import compute_hausdorff_distance  # late: scoring without it needs no MONAI

    masks = (mask[None, None].cpu().float() for mask in (found, truth))
    return float(compute_hausdorff_distance(*masks, include_background=True, percentile=95, spacing=spacing))


MEASURES: dict[str, tuple[Callable[[Mask, Mask, Spacing], float], str, str, str]] = {
    "volume_error": (volume_error, "volume error", "%", "|volume - truth's| in % of the truth's"),
    "centroid_mm": (centroid_shift, "centroid shift", "mm", "distance of the centroids"),
    "hd95_mm": (hausdorff_95, "95 % Hausdorff", "mm", "95 % Hausdorff distance of the surfaces, by MONAI"),
}


def measured(name: str, found: Mask | None, truth: Mask, spacing: Spacing) -> float:
    """One of `MEASURES`; NaN where the prediction has no such organ."""
    return MEASURES[name][0](found, truth, spacing) if found is not None and found.any() else float("nan")


def _lungs(view: CaseView) -> tuple[Bool[Tensor, "m d h w"], Mask]:
    lungs_in_window(view)
    return view.counted(view.predicted_lungs), view.counted(view.segmented_lungs)


def _body(view: CaseView) -> tuple[Bool[Tensor, "m d h w"], Mask]:
    bodies = torch.stack([view.remembered(body_mask, volume) for volume in view.predictions])
    return view.counted(bodies), view.region("body")


def _shape(name: str, masks: Callable) -> Callable[[CaseView], Float[Tensor, " m"]]:
    def compute(view: CaseView) -> Float[Tensor, " m"]:
        found, truth = masks(view)
        if not truth.any():
            raise NotMeasured("the truth shows no lungs")
        return torch.tensor([measured(name, mask, truth, view.spacing) for mask in found])

    return compute


METRICS = tuple(
    Metric(
        f"{organ}_{name}",
        f"{organ} {label}",
        _shape(name, masks),
        f"{text}; {how} in both volumes",
        unit,
        "low",
        1,
    )
    for organ, masks, how in (
        ("lung", _lungs, "lungs by segment_lungs"),
        ("body", _body, "largest part above -500 HU, filled slice by slice,"),
    )
    for name, (_, label, unit, text) in MEASURES.items()
)
