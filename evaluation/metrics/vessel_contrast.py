"""Contrast of vessels: HU step from their surroundings, relative to that of the truth."""

from jaxtyping import Bool, Float
from torch import Tensor

from evaluation.metrics.base import CaseView, Metric, NotMeasured
from evaluation.metrics.regions import within_mm

SHELL_MM = 10.0
LUNG_VESSEL_HU = -500.0  # voxels of a lung mask above are vessel (or a finding)
SMALLEST_STEP_HU = 20.0  # a truth with less shows no vessel


def vessel_contrast(
    volume: Float[Tensor, "*b d h w"], vessels: Bool[Tensor, "d h w"], around: Bool[Tensor, "d h w"]
) -> Float[Tensor, "*b"]:
    """Mean HU of the vessels minus mean HU of their surroundings; NaN if either is empty."""
    return volume[..., vessels].mean(dim=-1) - volume[..., around].mean(dim=-1)


def _lung_vessels(view: CaseView) -> Float[Tensor, " m"]:
    if "labels" in view.case:
        vessels, lungs = view.labelled("vessels"), view.labelled("lungs")
    else:
        lungs = view.segmented_lungs
        vessels = lungs & (view.hu > LUNG_VESSEL_HU)
    return _share_of_truth(view, vessels, lungs, "lung vessels")


def _arteries(view: CaseView) -> Float[Tensor, " m"]:
    arteries = view.labelled("arteries")
    others = ~view.labelled("arteries", "clots", "vessels", "aorta", "heart", "bone", "airway", "lungs")
    return _share_of_truth(view, arteries, others & view.region("body"), "pulmonary arteries")


def _share_of_truth(view: CaseView, vessels: Tensor, surroundings: Tensor, title: str) -> Float[Tensor, " m"]:
    vessels = view.counted(vessels)
    around = view.counted(within_mm(vessels, view.spacing, SHELL_MM) & surroundings & ~vessels)
    view.require(title, vessels, around)
    wanted = vessel_contrast(view.truth, vessels, around)
    if wanted < SMALLEST_STEP_HU:
        raise NotMeasured(f"the contrast of the truth's {title} is only {float(wanted):.0f} HU")
    return vessel_contrast(view.predictions, vessels, around) / wanted


METRICS = (
    Metric(
        "vessel_contrast",
        "vessel contrast, of the truth's",
        _lung_vessels,
        "mean HU of the lung vessels minus mean HU of the lung within "
        f"{SHELL_MM:g} mm of them, divided by the truth's; a phantom's own vessels, else above {LUNG_VESSEL_HU:g} HU "
        "in the segmenter's lungs; 1 is the truth, 0 no vessel",
        best="one",
    ),
    Metric(
        "artery_contrast",
        "artery contrast, of the truth's",
        _arteries,
        f"the same of a phantom's pulmonary arteries (trunk to lobes) against soft tissue within {SHELL_MM:g} mm",
        best="one",
    ),
)
