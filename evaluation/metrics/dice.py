"""Dice of lungs, heart and body against the truth's.

The built-in segmenter finds lungs of a prediction. There is no segmenter of the heart, and HU do not separate heart
from liver or chest wall; `heart_in_sight` defines the voxels that are evaluated instead.
"""

import torch
from jaxtyping import Bool, Float
from scipy import ndimage
from torch import Tensor

from dataset.imaging.lung_segmentation import LUNG_BELOW_HU
from evaluation.metrics.base import CaseView, Metric, NotMeasured
from evaluation.metrics.regions import LUNG_LABELS, body_mask

HEART_MARGIN_MM = 20.0


def dice(prediction: Bool[Tensor, "*b d h w"], truth: Bool[Tensor, "*b d h w"]) -> Float[Tensor, "*b"]:
    """Overlap of two masks, `2|A∩B| / (|A|+|B|)`; 1 where both are empty."""
    both = (prediction & truth).sum(dim=(-3, -2, -1)).double()
    either = prediction.sum(dim=(-3, -2, -1)).double() + truth.sum(dim=(-3, -2, -1)).double()
    return torch.where(either > 0, 2.0 * both / either.clamp(min=1.0), torch.ones_like(either)).float()


def heart_in_sight(
    hu: Float[Tensor, "d h w"],
    heart: Bool[Tensor, "d h w"],
    lungs: Bool[Tensor, "d h w"],
    spacing: tuple[float, float, float],
) -> tuple[Bool[Tensor, "d h w"], Bool[Tensor, "d h w"]]:
    """`(heart, evaluated)`: the truth's heart, and the voxels in which a threshold separates it from its surroundings.

    Evaluated are the labelled heart and the truth's aerated lung within `HEART_MARGIN_MM` of it, both by the threshold
    `dataset.imaging.lung_segmentation.LUNG_BELOW_HU`. Diaphragm, liver, chest wall, great vessels and mediastinum have
    the HU of the heart and are left out, so the metric measures the border between heart and lungs only.
    """
    aerated = hu < LUNG_BELOW_HU
    seen = heart & ~aerated
    if not seen.any():
        return seen, seen
    around = ndimage.distance_transform_edt(~seen.cpu().numpy(), sampling=spacing) <= HEART_MARGIN_MM
    return seen, seen | (torch.from_numpy(around).to(hu.device) & lungs & aerated)


def _lung_dice(view: CaseView) -> Float[Tensor, " m"]:
    _lungs_in_window(view)
    return dice(view.predicted_lungs, view.segmented_lungs)


def _lung_dice_labels(view: CaseView) -> Float[Tensor, " m"]:
    """Without the voxels in which the segmenter errs on the truth, so that its errors do not count."""
    own = view.labelled(*LUNG_LABELS)
    _lungs_in_window(view)
    correct = own == view.segmented_lungs
    return dice(view.predicted_lungs & correct, own & correct)


def _heart_dice_labels(view: CaseView) -> Float[Tensor, " m"]:
    heart = view.labelled("heart")
    if view.window.low >= LUNG_BELOW_HU:
        raise NotMeasured(f"outside window: it begins at {view.window.low:g} HU and shows no border against the lungs")
    seen, evaluated = heart_in_sight(view.hu, heart, view.labelled(*LUNG_LABELS), view.spacing)
    return dice((view.predictions >= LUNG_BELOW_HU) & evaluated, seen)


def _body_dice(view: CaseView) -> Float[Tensor, " m"]:
    return dice(torch.stack([view.remembered(body_mask, v) for v in view.predictions]), view.region("body"))


def _lungs_in_window(view: CaseView) -> None:
    """Raises `NotMeasured` if the window clips most of the lungs."""
    lungs, low = view.segmented_lungs, view.window.low
    if lungs.any() and float((view.hu[lungs] < low).float().mean()) > 0.5:
        raise NotMeasured(f"outside window: [{low:g}, {view.window.high:g}] HU flattens the lungs")


METRICS = (
    Metric(
        "lung_dice",
        "lung Dice",
        "",
        "high",
        3,
        _lung_dice,
        "dataset.imaging.lung_segmentation.segment_lungs on both; truth segmented before windowing",
        default=True,
    ),
    Metric(
        "lung_dice_labels",
        "lung Dice, own masks",
        "",
        "high",
        3,
        _lung_dice_labels,
        "the phantom's own lungs against segment_lungs of the prediction; voxels in which segment_lungs errs on the "
        "truth are left out",
    ),
    Metric(
        "heart_dice_labels",
        "heart Dice, own masks",
        "",
        "high",
        3,
        _heart_dice_labels,
        f"the phantom's own heart against prediction >= {LUNG_BELOW_HU:g} HU, in the heart and in aerated lung within "
        f"{HEART_MARGIN_MM:g} mm of it: the border against the lungs; soft tissue around the heart is left out",
    ),
    Metric(
        "body_dice",
        "body Dice",
        "",
        "high",
        3,
        _body_dice,
        "largest part above -500 HU, filled slice by slice, on both",
    ),
)
