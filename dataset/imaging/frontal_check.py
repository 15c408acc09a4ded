"""Whether a picture is a frontal chest X-ray, by the lungs that the lung network finds in it."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dataset.imaging.lung_network import LUNG, SIZE, FoundLungs, find_lungs, find_lungs_in_batch
from dataset.imaging.unknown_pixels import split_unknown

LUNG_SHARE = (0.025, 0.4)  # of the picture: plausible size of one lung
LARGEST_RATIO = 4.0  # of the sizes of both lungs
LUNG_ASPECT = (0.5, 5.0)  # height over width of one lung
LUNG_SOLID = 0.4  # smallest share of its box ellipse that a lung fills
LARGEST_STEP = 0.5  # of the lung height: largest difference of the heights of both centres
SMALLEST_GAP = 0.45  # between the centres across, over the square root of the area of both lungs
CERTAIN, CERTAIN_SMALL = 0.84, 0.905  # smallest certainty near the lungs, and where a lung is small, as in laterals
SMALL = 0.06  # of the picture: a small lung
TURNS = {"inverted": (0, True), "turned by 90°": (1, False), "upside down": (2, False), "turned by 270°": (3, False)}
REMEDY = "give a frontal chest X-ray, or set allow_any_picture=true"


def why_not_frontal(xray: Float[Tensor, "h w"]) -> str | None:
    """The reason why a picture in [0, 1] is no frontal chest X-ray; None if it is one.

    An X-ray that would be one inverted or turned is named so.
    """
    xray, _ = split_unknown(xray)
    problem = implausible(find_lungs(xray))
    if problem is None:
        return None
    turned = [(1.0 - xray if inverted else xray).rot90(quarters) for quarters, inverted in TURNS.values()]
    square = all(picture.shape == xray.shape for picture in turned)
    found = find_lungs_in_batch(torch.stack(turned)) if square else map(find_lungs, turned)
    for name, lungs in zip(TURNS, found, strict=True):
        if implausible(lungs) is None:
            return f"it looks {name}: give it with bright bone, head up, the patient's right on the left"
    return f"it does not look like a frontal chest X-ray ({problem}); {REMEDY}"


def implausible(found: FoundLungs) -> str | None:
    """Why the lungs are not those of a frontal chest X-ray, in some words; None if they may be."""
    e = evidence(found)
    if min(e["areas"]) < LUNG_SHARE[0]:
        which = "no lungs" if max(e["areas"]) < LUNG_SHARE[0] else "one lung"
        return f"{which} found"
    if max(e["areas"]) > LUNG_SHARE[1]:
        return "what is dark is too large for a lung"
    if max(e["areas"]) > LARGEST_RATIO * min(e["areas"]):
        return "the two lungs differ too much in size"
    if e["gap"] < SMALLEST_GAP:
        return "the lungs are not side by side"
    if not all(LUNG_ASPECT[0] <= a <= LUNG_ASPECT[1] for a in e["aspects"]):
        return "the lungs have an unusual shape"
    if min(e["solid"]) < LUNG_SOLID:
        return "the lungs have a ragged outline"
    if e["step"] > LARGEST_STEP:
        return "one lung lies far below the other"
    if e["certainty"] < (CERTAIN_SMALL if min(e["areas"]) < SMALL else CERTAIN):
        return "the outline of the lungs is uncertain"
    return None


def evidence(found: FoundLungs) -> dict:
    """Size, shape and position of both lungs, and the certainty of the network.

    `areas` are shares of the picture; `gap` is the distance of the centres of the lungs across over the square root of
    the area of both. `step` is the difference of the heights of their centres over the larger height. `solid` is the
    area of each lung over that of the ellipse in its box. `certainty` is the Dice of the mask with its probability.
    """
    areas, aspects, solid, centres, heights = [], [], [], [], []
    for mask in found.sides:
        rows, columns = np.nonzero(mask)
        if len(rows) < 20:
            return {"areas": [0.0, float(found.sides.any(axis=0).mean())]}
        (top, bottom), (left, right) = np.quantile(rows, (0.01, 0.99)), np.quantile(columns, (0.01, 0.99))
        height, width = bottom - top + 1.0, right - left + 1.0
        areas.append(len(rows) / SIZE**2)
        aspects.append(float(height / width))
        solid.append(float(len(rows) / (np.pi / 4 * height * width)))
        centres.append((rows.mean(), columns.mean()))
        heights.append(height)
    probability = found.probability[:, LUNG].max(axis=0)
    return {
        "areas": areas,
        "aspects": aspects,
        "solid": solid,
        "gap": float((centres[1][1] - centres[0][1]) / SIZE / sum(areas) ** 0.5),
        "step": float(abs(centres[0][0] - centres[1][0]) / max(heights)),
        "certainty": float(2 * probability[found.lungs].sum() / (probability.sum() + found.lungs.sum())),
    }
