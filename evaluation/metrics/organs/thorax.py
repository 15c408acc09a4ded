"""Measures of the thorax as a radiologist takes them: height of the diaphragms, cardiothoracic ratio."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dataset.imaging.forward_model import ForwardModel
from dataset.imaging.geometry import fill_unknown
from dataset.imaging.lung_network import find_lungs
from dataset.xray.domes import split_lungs
from evaluation.metrics.base import CaseView, Metric, NotMeasured
from evaluation.metrics.dice import lungs_in_window
from evaluation.metrics.reprojection import FORWARD_MODEL, scaled_drr

CENTRE = 1.0 / 3.0  # share of the sides of a lung's box: the columns over which its diaphragm is measured


def diaphragm_heights(lungs: Bool[Tensor, "d h w"], spacing: tuple[float, float, float]) -> Float[Tensor, "2"]:
    """Height in mm above the lowest slice of the right and the left diaphragm; NaN unless the mask is two lungs.

    The height of a side is the median of the lowest lung voxels over the columns in the central third of its box.
    """
    sides = split_lungs(lungs.cpu().numpy())
    return torch.full((2,), torch.nan) if sides is None else torch.tensor([_height(s) * spacing[0] for s in sides])


def _height(lung: Bool[np.ndarray, "d h w"]) -> float:
    footprint, box = lung.any(axis=0), []
    for axis in (1, 0):
        places = np.flatnonzero(footprint.any(axis=axis))
        margin = (places[-1] + 1 - places[0]) * (1.0 - CENTRE) / 2.0
        box.append(
            slice(int(places[0] + margin), max(int(np.ceil(places[-1] + 1 - margin)), int(places[0] + margin) + 1))
        )
    base = np.where(footprint, lung.argmax(axis=0), np.nan)[tuple(box)]
    return float(np.nanmedian(base)) if np.isfinite(base).any() else float("nan")


def width_ratio(sides: Bool[np.ndarray, "2 h w"]) -> float:
    """Largest width between the right and the left lung in the lower half of both, over the largest width across both.

    NaN if a side is empty.
    """
    right, left = sides
    rows = np.flatnonzero(right.any(axis=1) & left.any(axis=1))
    if not len(rows):
        return float("nan")
    outer = [np.flatnonzero((right | left)[row]) for row in rows]
    gaps = [np.flatnonzero(left[row])[0] - np.flatnonzero(right[row])[-1] - 1 for row in rows[len(rows) // 2 :]]
    return float(max(max(gaps), 0) / max(places[-1] - places[0] + 1 for places in outer))


def _diaphragms(view: CaseView) -> Float[Tensor, " m"]:
    lungs_in_window(view)
    truth = diaphragm_heights(view.counted(view.segmented_lungs), view.spacing)
    if truth.isnan().any():
        raise NotMeasured("the truth shows no two lungs")
    if view.scanned is not None and not torch.equal(truth, diaphragm_heights(view.segmented_lungs, view.spacing)):
        raise NotMeasured("the scan does not reach the diaphragms")
    heights = [diaphragm_heights(view.counted(lungs), view.spacing) for lungs in view.predicted_lungs]
    return torch.stack([(height - truth).abs().mean() for height in heights])


def _cardiothoracic(view: CaseView) -> Float[Tensor, " m"]:
    if not view.window.keeps_line_integrals:
        raise NotMeasured(f"outside window: [{view.window.low:g}, {view.window.high:g}] HU falsifies line integrals")
    xray = view.case["xray"].cpu().float()
    if not xray.numel():
        raise NotMeasured("the cases have no X-ray")
    truth = width_ratio(find_lungs(xray[0]).sides)
    if np.isnan(truth):
        raise NotMeasured("the lung network finds no two lungs in the X-ray")
    extent = tuple(n * s for n, s in zip(view.hu.shape, view.spacing, strict=True))
    pose = tuple(fill_unknown(view.case["pose"].cpu()[:1], extent)[0].tolist())
    model = view.tools.get(FORWARD_MODEL)
    model = model if model is not None and not model.why_not_applicable else ForwardModel()
    found = []
    try:
        for volume in view.predictions:
            drr = view.remembered(scaled_drr, volume, view.spacing, pose, tuple(xray[0].shape), None, model)
            ratio = float("nan") if drr.isnan().all() else width_ratio(find_lungs(drr).sides)
            found.append(abs(ratio - truth))
    except ModuleNotFoundError as error:
        raise NotMeasured(f"{error.name} is not installed") from error
    return torch.tensor(found)


METRICS = (
    Metric(
        "diaphragm_mm",
        "diaphragm height error",
        _diaphragms,
        "|height - truth's| of the diaphragms, mean of both sides; the median lower border of each lung over the "
        "central third of its box",
        "mm",
        "low",
        1,
    ),
    Metric(
        "cardiothoracic_ratio",
        "cardiothoracic ratio error",
        _cardiothoracic,
        "|ratio in the volume's DRR - ratio in its X-ray|; width between the lungs in their lower half over width "
        "across both, by the lung network in both images, which counts lung behind the heart; nominal pose if unknown",
        "",
        "low",
        3,
        floor=True,
    ),
)
