"""Plausible HU: the median inside each organ against its physiological range."""

from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from evaluation.metrics.base import CaseView, Metric, NotMeasured

# Median HU of living tissue on chest CT, with and without contrast agent; wide, so that disease rarely exceeds it
ORGAN_HU = {
    "lungs": (-950.0, -550.0),
    "soft": (-120.0, 100.0),
    "bone": (150.0, 900.0),
    "heart": (10.0, 500.0),
    "aorta": (10.0, 700.0),
    "liver": (10.0, 200.0),
}


def plausible_share(
    volume: Float[Tensor, "*b d h w"], organs: dict[str, Bool[Tensor, "d h w"]]
) -> Float[Tensor, "*b"]:
    """Share of the organs, by their name in `ORGAN_HU`, whose median HU lies in its range."""
    medians = {name: volume[..., mask].median(dim=-1).values for name, mask in organs.items()}
    kept = [(hu >= ORGAN_HU[name][0]) & (hu <= ORGAN_HU[name][1]) for name, hu in medians.items()]
    return torch.stack(kept).double().mean(dim=0).float()


def _plausible(view: CaseView) -> Float[Tensor, " m"]:
    """Without organs that the window clips or whose truth is out of range, such as a consolidated lung."""
    masks = {name: partial(view.region, name) for name in ("soft", "bone", "lungs")}
    if "labels" in view.case:
        masks |= {name: partial(view.labelled, name) for name in ("heart", "aorta", "liver")}
    organs = {}
    for name, mask_of in masks.items():
        try:
            mask = mask_of()
            view.require(name, mask)
        except NotMeasured:
            continue
        if plausible_share(view.truth, {name: mask}) == 1.0:
            organs[name] = mask
    if not organs:
        raise NotMeasured("no organ of the truth lies inside the window and the physiological range")
    return plausible_share(view.predictions, organs)


METRICS = (
    Metric(
        "organ_hu",
        "organs with plausible HU",
        _plausible,
        "share of organs (in the truth's masks: lungs, soft tissue, bone; of phantoms heart, aorta, liver too) whose "
        "median HU is physiological: "
        + ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in ORGAN_HU.items())
        + "; organs in which the truth's is not are left out",
    ),
)
