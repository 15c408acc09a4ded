"""Dice of lungs, heart and body.

`lung_mask` segments the lungs of a prediction. HU do not separate the heart from liver or chest wall, so the heart is
evaluated at its border with the lungs only (`visible_heart`).
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dataset.imaging.lung_segmentation import LUNG_BELOW_HU
from evaluation.metrics.base import CaseView, Metric, NotMeasured
from evaluation.metrics.regions import BODY_HU, LUNG_LABELS, body_mask, within_mm

HEART_MARGIN_MM = 20.0


def dice(prediction: Bool[Tensor, "*b d h w"], truth: Bool[Tensor, "*b d h w"]) -> Float[Tensor, "*b"]:
    """Overlap of two masks, `2|A∩B| / (|A|+|B|)`; 1 where both are empty."""
    both = (prediction & truth).sum(dim=(-3, -2, -1)).double()
    total = prediction.sum(dim=(-3, -2, -1)).double() + truth.sum(dim=(-3, -2, -1)).double()
    return torch.where(total > 0, 2.0 * both / total.clamp(min=1.0), 1.0).float()


def visible_heart(
    hu: Float[Tensor, "d h w"],
    heart: Bool[Tensor, "d h w"],
    lungs: Bool[Tensor, "d h w"],
    spacing: tuple[float, float, float],
) -> tuple[Bool[Tensor, "d h w"], Bool[Tensor, "d h w"]]:
    """`(heart, evaluated)`: heart of the truth, and the voxels in which `LUNG_BELOW_HU` separates it from the lungs.

    `evaluated` is the heart with the aerated lung within `HEART_MARGIN_MM` of it. Diaphragm, liver, chest wall, great
    vessels and mediastinum have the HU of the heart and are left out.
    """
    aerated = hu < LUNG_BELOW_HU
    visible = heart & ~aerated
    return visible, visible | (within_mm(visible, spacing, HEART_MARGIN_MM) & lungs & aerated)


def _lung_dice(view: CaseView) -> Float[Tensor, " m"]:
    lungs_in_window(view)
    return dice(view.counted(view.predicted_lungs), view.counted(view.segmented_lungs))


def _lung_dice_labels(view: CaseView) -> Float[Tensor, " m"]:
    """Without the voxels in which `lung_mask` is wrong on the truth."""
    own = view.labelled(*LUNG_LABELS)
    lungs_in_window(view)
    correct = view.counted(own == view.segmented_lungs)
    return dice(view.predicted_lungs & correct, own & correct)


def _heart_dice_labels(view: CaseView) -> Float[Tensor, " m"]:
    heart = view.labelled("heart")
    if view.window.low >= LUNG_BELOW_HU:
        raise NotMeasured(f"outside window: it begins at {view.window.low:g} HU and clips the border to the lungs")
    visible, evaluated = visible_heart(view.hu, heart, view.labelled(*LUNG_LABELS), view.spacing)
    return dice((view.predictions >= LUNG_BELOW_HU) & evaluated, visible)


def _body_dice(view: CaseView) -> Float[Tensor, " m"]:
    return dice(predicted_bodies(view), view.region("body"))


def predicted_bodies(view: CaseView) -> Bool[Tensor, "m d h w"]:
    """Body of each prediction, where it was scanned; NotMeasured if the window clips the air around it."""
    low, high = view.window.low, view.window.high
    if low >= BODY_HU:
        raise NotMeasured(f"outside window: [{low:g}, {high:g}] HU clips the air around the body")
    return view.counted(torch.stack([view.remembered(body_mask, volume) for volume in view.predictions]))


def lungs_in_window(view: CaseView) -> None:
    """Raises NotMeasured if most of the lungs lie below the window."""
    lungs, low = view.segmented_lungs, view.window.low
    if lungs.any() and float((view.hu[lungs] < low).float().mean()) > 0.5:
        raise NotMeasured(f"outside window: [{low:g}, {view.window.high:g}] HU clips the lungs")


METRICS = (
    Metric(
        "lung_dice",
        "lung Dice",
        _lung_dice,
        "dataset.imaging.lung_segmentation.segment_lungs on both; truth segmented before windowing",
        default=True,
    ),
    Metric(
        "lung_dice_labels",
        "lung Dice, own masks",
        _lung_dice_labels,
        "the phantom's own lungs against segment_lungs of the prediction; voxels in which segment_lungs errs on the "
        "truth are left out",
    ),
    Metric(
        "heart_dice_labels",
        "heart Dice, own masks",
        _heart_dice_labels,
        f"the phantom's own heart against prediction >= {LUNG_BELOW_HU:g} HU, in the heart and in aerated lung within "
        f"{HEART_MARGIN_MM:g} mm of it: the border against the lungs; soft tissue around the heart is left out",
    ),
    Metric("body_dice", "body Dice", _body_dice, "largest part above -500 HU, filled slice by slice, on both"),
)
