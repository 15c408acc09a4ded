"""The quantities that get prediction intervals: tissues and organ volumes."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dataset.imaging.hu_window import Window
from dataset.imaging.lung_segmentation import LUNG_BELOW_HU
from evaluation.intervals.organ_volumes import HeartVolumeRegressor, lung_millilitres
from evaluation.metrics.regions import BODY_HU, body_mask, lung_mask, split_dense

TISSUES = ("air", "lungs", "soft", "undivided", "bone", "vessels")
ORGANS = ("lung_volume", "heart_volume")
TITLES = {
    "air": "air around the patient",
    "lungs": "lungs",
    "soft": "soft tissue",
    "undivided": "air, lungs and soft tissue",  # of a window that clips air to the HU of tissue
    "bone": "bone",
    "vessels": "contrast vessels",
    "lung_volume": "lung volume",
    "heart_volume": "heart volume",
}
LEAST_ACCURACY = 0.8  # precision and recall against labels, above which a region has its name
NAMED_BY_LABELS = {  # regions whose name is tested, and what they are called without it
    "lungs": "air-filled tissue",
    "bone": "dense tissue that is not between the lungs",
    "vessels": "dense tissue between the lungs",
}
UNITS = dict.fromkeys(TISSUES, "HU") | dict.fromkeys(ORGANS, "ml")


def title(quantity: str, accuracy: dict[str, dict] | None) -> str:
    """The title of a quantity; without an anatomical name if labels did not confirm it.

    `accuracy` is that of the calibration (`evaluation.calibration.region_accuracy`), None in files of earlier
    versions, which confirm nothing. The volume of the lungs has the name of their region; that of the heart is
    estimated by a regression on labels, without a region.
    """
    region = "lungs" if quantity == "lung_volume" else quantity
    if region not in NAMED_BY_LABELS:
        return TITLES[quantity]
    found = (accuracy or {}).get(region, {"precision": 0.0, "recall": 0.0})
    confirmed = min(found["precision"], found["recall"]) > LEAST_ACCURACY
    unnamed = NAMED_BY_LABELS[region] if region == quantity else f"volume of {NAMED_BY_LABELS[region]}"
    return TITLES[quantity] if confirmed else unnamed


def tissue_masks(
    mean: Float[Tensor, "d h w"], spacing: tuple[float, float, float], window: Window
) -> dict[str, Bool[Tensor, "d h w"]]:
    """Masks of `TISSUES` that partition a generated mean volume; a mask may be empty.

    A window that begins at `BODY_HU` or above makes air look like tissue: all that is not dense is then `undivided`.
    """
    body, lungs = body_mask(mean), lung_mask(mean, spacing)
    bone, vessels = split_dense(mean, body, lungs, spacing)
    found = dict.fromkeys(TISSUES, torch.zeros_like(body)) | {"bone": bone, "vessels": vessels}
    if window.low >= BODY_HU:
        return found | {"undivided": ~bone & ~vessels}
    lungs = lungs & ~bone & ~vessels
    body = body | lungs
    return found | {"air": ~body, "lungs": lungs, "soft": body & ~lungs & ~bone & ~vessels}


def organ_samples(
    samples: Float[Tensor, "s d h w"],
    spacing: tuple[float, float, float],
    heart: HeartVolumeRegressor | None,
    window: Window,
) -> dict[str, Float[Tensor, " s"]]:
    """Organ volumes in ml of each sample; empty if the window clips the lungs, no heart without regressor."""
    if window.low >= LUNG_BELOW_HU:
        return {}
    found = {"lung_volume": [lung_millilitres(sample, spacing) for sample in samples]}
    if heart is not None:
        found["heart_volume"] = [heart(sample, spacing) for sample in samples]
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in found.items()}
