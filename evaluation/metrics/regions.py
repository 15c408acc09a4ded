"""Regions of a volume: body, lungs, soft tissue, bone, contrast vessels, all from HU before windowing."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import ndimage
from torch import Tensor

from dataset.imaging.hu_window import Window
from dataset.imaging.lung_segmentation import segment_lungs

BODY_HU = -500.0  # halfway between air and water: the skin
SOFT_HU = (-150.0, 130.0)  # fat to unenhanced organs
DENSE_HU = 150.0  # bone and contrast agent; unenhanced tissue stays below
NECK_MM = 4.0  # a contact thinner than this between vessel and bone does not join them
VESSEL_ML = 2.0  # less contrast than this is calcification


def body_mask(hu: Float[Tensor, "d h w"]) -> Bool[Tensor, "d h w"]:
    """The patient, lungs included: the largest connected part above `BODY_HU`, filled slice by slice.

    `hu` must not have been windowed. The mask is empty if nothing is denser than air.
    """
    dense, count = ndimage.label(hu.cpu().numpy() > BODY_HU)
    if count == 0:
        return torch.zeros(hu.shape, dtype=torch.bool, device=hu.device)
    largest = dense == np.bincount(dense.ravel())[1:].argmax() + 1
    return torch.from_numpy(np.stack([ndimage.binary_fill_holes(plane) for plane in largest])).to(hu.device)


def lung_mask(hu: Float[Tensor, "d h w"], spacing: tuple[float, float, float]) -> Bool[Tensor, "d h w"]:
    """`dataset.imaging.lung_segmentation.segment_lungs` on tensors."""
    return torch.as_tensor(np.asarray(segment_lungs(hu.cpu().numpy(), spacing)), dtype=torch.bool, device=hu.device)


def soft_tissue_mask(
    hu: Float[Tensor, "d h w"], body: Bool[Tensor, "d h w"], lungs: Bool[Tensor, "d h w"]
) -> Bool[Tensor, "d h w"]:
    """Body outside the lungs between `SOFT_HU`."""
    return body & ~lungs & (hu >= SOFT_HU[0]) & (hu < SOFT_HU[1])


def split_dense(
    hu: Float[Tensor, "d h w"],
    body: Bool[Tensor, "d h w"],
    lungs: Bool[Tensor, "d h w"],
    spacing: tuple[float, float, float],
) -> tuple[Bool[Tensor, "d h w"], Bool[Tensor, "d h w"]]:
    """What is denser than `DENSE_HU` as `(bone, contrast vessels)`.

    HU do not separate them, their place does: in each axial slice a dense part, cut where it is thinner than
    `NECK_MM`, is vessel if most of it lies between the lungs, and bone (spine with its ribs, sternum) otherwise.
    Without lungs, or with less than `VESSEL_ML` of vessel (no contrast agent), all is bone. A heuristic: an aorta
    that touches the spine counts as bone, so the mask suits errors inside vessels, not their volume.
    """
    dense = ((hu >= DENSE_HU) & body).cpu().numpy()
    between = _between_lungs(lungs.cpu().numpy())
    in_plane = np.zeros((3, 3, 3), dtype=bool)
    in_plane[1] = ndimage.generate_binary_structure(2, 1)
    steps = max(0, round(NECK_MM / 2.0 / max(spacing[1:])))
    core = ndimage.binary_erosion(dense, in_plane, iterations=steps) if steps else dense
    parts, count = ndimage.label(core, structure=in_plane)
    if steps:  # what the erosion took belongs to the nearest part
        for _ in range(steps):
            parts = np.where((parts == 0) & dense, ndimage.grey_dilation(parts, footprint=in_plane), parts)
    size = np.bincount(parts.ravel(), minlength=count + 1)
    central = np.bincount(parts.ravel(), weights=between.ravel(), minlength=count + 1)
    is_vessel = 2.0 * central > size
    is_vessel[0] = False
    vessel = is_vessel[parts]
    if vessel.sum() * float(np.prod(spacing)) / 1000.0 < VESSEL_ML:
        vessel = np.zeros_like(vessel)
    vessel = torch.from_numpy(vessel).to(hu.device)
    return torch.from_numpy(dense).to(hu.device) & ~vessel, vessel


def _between_lungs(lungs: Bool[np.ndarray, "d h w"]) -> Bool[np.ndarray, "d h w"]:
    """Of each axial slice, what lies between lung and lung in its row, and not before or behind lung in its column."""

    def span(axis: int) -> np.ndarray:
        forward = np.maximum.accumulate(lungs, axis=axis)
        return forward & np.flip(np.maximum.accumulate(np.flip(lungs, axis), axis=axis), axis)

    return span(2) & (span(1) | ~lungs.any(axis=1, keepdims=True))


def flattened_share(hu: Float[Tensor, "d h w"], mask: Bool[Tensor, "d h w"], window: Window) -> float:
    """Share of the mask's voxels that the window clips."""
    inside = hu[mask]
    return float(((inside < window.low) | (inside > window.high)).float().mean())


@dataclass(frozen=True)
class Region:
    """A part of the truth. `mask` takes a `CaseView`."""

    title: str
    definition: str
    mask: Callable[..., Bool[Tensor, "d h w"]]


def _lungs(view) -> Bool[Tensor, "d h w"]:
    """A phantom's own lungs, else those of the segmenter."""
    return view.labelled(*LUNG_LABELS) if "labels" in view.case else view.segmented_lungs


def _soft(view) -> Bool[Tensor, "d h w"]:
    return soft_tissue_mask(view.hu, view.body, view.segmented_lungs)


LUNG_LABELS = ("lungs", "vessels", "lesion")  # of a phantom, what lies inside the pleura
BLOOD_LABELS = ("heart", "arteries", "vessels", "aorta", "clots")  # of a phantom, what contrast may fill

REGIONS = {
    "body": Region("the body", "the body of the unwindowed truth", lambda view: view.body),
    "lungs": Region("the lungs", "the truth's lungs (a phantom's own mask, else the segmenter's)", _lungs),
    "soft": Region(
        "soft tissue",
        f"the body outside the lungs at {SOFT_HU[0]:g} to {SOFT_HU[1]:g} HU, before windowing",
        _soft,
    ),
    "bone": Region(
        "bone",
        f"bone: {DENSE_HU:g} HU and more, in axial parts of which most lies outside the space between the lungs "
        "(a phantom's: by its labels)",
        lambda view: view.dense[0],
    ),
    "vessels": Region(
        "contrast vessels",
        f"contrast vessels: {DENSE_HU:g} HU and more, in axial parts of which most lies between the lungs "
        "(a phantom's: by its labels)",
        lambda view: view.dense[1],
    ),
}
