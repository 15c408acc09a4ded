"""Plausible HU of organs: the median inside each organ against its physiological range."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from evaluation.metrics.base import CaseView, Metric, NotMeasured
from evaluation.metrics.regions import LUNG_LABELS, flattened_share

# Median HU of living tissue on chest CT, with and without contrast agent; wide, so that disease alone leaves it rarely
ORGAN_HU = {
    "lungs": (-950.0, -550.0),
    "soft": (-120.0, 100.0),
    "bone": (150.0, 900.0),
    "heart": (10.0, 500.0),
    "aorta": (10.0, 700.0),
    "liver": (10.0, 200.0),
}


def median_hu(volume: Float[Tensor, "*b d h w"], mask: Bool[Tensor, "d h w"]) -> Float[Tensor, "*b"]:
    """Median HU inside the mask."""
    return volume[..., mask].median(dim=-1).values


def plausible_share(
    volume: Float[Tensor, "*b d h w"], organs: dict[str, Bool[Tensor, "d h w"]]
) -> Float[Tensor, "*b"]:
    """Share of the organs, by their name in `ORGAN_HU`, whose median HU lies in its range."""
    kept = [
        (median_hu(volume, mask) >= ORGAN_HU[name][0]) & (median_hu(volume, mask) <= ORGAN_HU[name][1])
        for name, mask in organs.items()
    ]
    return torch.stack(kept).double().mean(dim=0).float()


def _plausible(view: CaseView) -> Float[Tensor, " m"]:
    """Organs in which the truth itself is out of range (a consolidated lung) or outside the window are left out."""
    organs = {}
    for name, mask in _masks(view).items():
        if not mask.any() or flattened_share(view.hu, mask, view.window) > 0.5:
            continue
        if float(plausible_share(view.truth, {name: mask})) == 1.0:
            organs[name] = mask
    if not organs:
        raise NotMeasured("no organ of the truth lies inside the window and the physiological range")
    return plausible_share(view.predictions, organs)


def _masks(view: CaseView) -> dict[str, Bool[Tensor, "d h w"]]:
    masks = {"soft": _region(view, "soft"), "bone": _region(view, "bone")}
    if "labels" not in view.case:
        return masks | {"lungs": view.segmented_lungs}
    for name in ("heart", "aorta", "liver"):
        try:
            masks[name] = view.labelled(name)
        except NotMeasured:
            continue
    return masks | {"lungs": view.labelled(*LUNG_LABELS)}


def _region(view: CaseView, name: str) -> Bool[Tensor, "d h w"]:
    try:
        return view.region(name)
    except NotMeasured:
        return torch.zeros_like(view.hu, dtype=torch.bool)


METRICS = (
    Metric(
        "organ_hu",
        "organs with plausible HU",
        "",
        "high",
        3,
        _plausible,
        "share of organs (in the truth's masks: lungs, soft tissue, bone; of phantoms heart, aorta, liver too) whose "
        "median HU is physiological: "
        + ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in ORGAN_HU.items())
        + "; organs in which the truth's is not are left out",
    ),
)
