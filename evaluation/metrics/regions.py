"""Regions of a volume from HU before windowing: body, lungs, soft tissue, bone, contrast vessels."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import ndimage
from torch import Tensor

from dataset.imaging.hu_window import Window
from dataset.imaging.lung_segmentation import segment_lungs

BODY_HU = -500.0  # skin: halfway between air and water
SOFT_HU = (-150.0, 130.0)  # fat to unenhanced organs
DENSE_HU = 150.0  # bone and contrast agent; unenhanced tissue stays below
NECK_MM = 4.0  # a contact between vessel and bone that is thinner separates them
VESSEL_ML = 2.0  # less contrast is calcification
LUNG_LABELS = ("lungs", "vessels", "lesion")  # phantom labels inside the pleura
BLOOD_LABELS = ("heart", "arteries", "vessels", "aorta", "clots")  # phantom labels that contrast agent may fill


def body_mask(hu: Float[Tensor, "d h w"]) -> Bool[Tensor, "d h w"]:
    """The patient with lungs: the largest component above `BODY_HU`, filled slice by slice; empty for air alone."""
    dense, count = ndimage.label(hu.cpu().numpy() > BODY_HU)
    if count == 0:
        return torch.zeros(hu.shape, dtype=torch.bool, device=hu.device)
    largest = dense == np.bincount(dense.ravel())[1:].argmax() + 1
    return torch.from_numpy(np.stack([ndimage.binary_fill_holes(plane) for plane in largest])).to(hu.device)


def lung_mask(hu: Float[Tensor, "d h w"], spacing: tuple[float, float, float]) -> Bool[Tensor, "d h w"]:
    """`dataset.imaging.lung_segmentation.segment_lungs` on tensors."""
    return torch.as_tensor(np.asarray(segment_lungs(hu.cpu().numpy(), spacing)), dtype=torch.bool, device=hu.device)


def split_dense(
    hu: Float[Tensor, "d h w"],
    body: Bool[Tensor, "d h w"],
    lungs: Bool[Tensor, "d h w"],
    spacing: tuple[float, float, float],
) -> tuple[Bool[Tensor, "d h w"], Bool[Tensor, "d h w"]]:
    """`(bone, contrast vessels)`: the voxels denser than `DENSE_HU`, separated by position.

    In each axial slice a dense component, cut where it is thinner than `NECK_MM`, is vessel if most of it lies between
    the lungs, else bone. Without lungs, or with less than `VESSEL_ML` of vessel (no contrast agent), all is bone. An
    aorta that touches the spine counts as bone, so the mask suits errors inside vessels, not their volume.
    """
    dense = ((hu >= DENSE_HU) & body).cpu().numpy()
    between = _between_lungs(lungs.cpu().numpy())
    in_plane = np.zeros((3, 3, 3), dtype=bool)
    in_plane[1] = ndimage.generate_binary_structure(2, 1)
    steps = max(0, round(NECK_MM / 2.0 / max(spacing[1:])))
    core = ndimage.binary_erosion(dense, in_plane, iterations=steps) if steps else dense
    parts, count = ndimage.label(core, structure=in_plane)
    for _ in range(steps):  # assigns the eroded voxels to the nearest component
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
    """Voxels with lung on both sides in their row, and in their column if it contains lung, slice by slice."""

    def span(axis: int) -> np.ndarray:
        forward = np.maximum.accumulate(lungs, axis=axis)
        return forward & np.flip(np.maximum.accumulate(np.flip(lungs, axis), axis=axis), axis)

    return span(2) & (span(1) | ~lungs.any(axis=1, keepdims=True))


def within_mm(
    mask: Bool[Tensor, "d h w"], spacing: tuple[float, float, float], distance: float
) -> Bool[Tensor, "d h w"]:
    """Voxels within `distance` mm of the mask, with it; none if it is empty."""
    if not mask.any():
        return mask
    millimetres = ndimage.distance_transform_edt(~mask.cpu().numpy(), sampling=spacing)
    return torch.from_numpy(millimetres <= distance).to(mask.device)


def clipped_share(hu: Float[Tensor, "d h w"], mask: Bool[Tensor, "d h w"], window: Window) -> float:
    """Share of the mask's voxels that the window clips."""
    inside = hu[mask]
    return float(((inside < window.low) | (inside > window.high)).float().mean())


@dataclass(frozen=True)
class Region:
    """A part of the truth; `mask` takes a `CaseView`."""

    title: str
    definition: str
    mask: Callable[..., Bool[Tensor, "d h w"]]


def _lungs(view) -> Bool[Tensor, "d h w"]:
    return view.labelled(*LUNG_LABELS) if "labels" in view.case else view.segmented_lungs


def _soft(view) -> Bool[Tensor, "d h w"]:
    return view.body & ~view.segmented_lungs & (view.hu >= SOFT_HU[0]) & (view.hu < SOFT_HU[1])


REGIONS = {
    "body": Region("the body", "the body of the unwindowed truth", lambda view: view.body),
    "lungs": Region("the lungs", "the truth's lungs (a phantom's own mask, else the segmenter's)", _lungs),
    "soft": Region(
        "soft tissue", f"the body outside the lungs at {SOFT_HU[0]:g} to {SOFT_HU[1]:g} HU, before windowing", _soft
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
