"""What a reader measures in a volume: lung volume, cardiothoracic ratio, and volumes of masks from other programs."""

from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from common.errors import UserError
from common.files import visible
from dataset.imaging.geometry import view_pose
from dataset.imaging.lung_network import find_lungs
from dataset.imaging.lung_segmentation import segment_lungs
from dataset.imaging.resampling import downsample
from dataset.imaging.volume import Volume
from dataset.io.nifti import NIFTI_ENDINGS, open_nifti
from dataset.io.paths import volume_name
from evaluation.metrics.organs.thorax import width_ratio
from evaluation.metrics.reprojection import scaled_drr
from evaluation.scoring.evaluation_pictures import file_name

GRID_MM = 3.0  # of the segmentation of lungs
SIDE = 256  # pixels of the DRR
LUNGS, RATIO, RATIO_XRAY = "lung_ml", "cardiothoracic_ratio", "cardiothoracic_ratio_xray"
UNITS = {RATIO: "", RATIO_XRAY: ""}  # of other measures ml
DEFINITIONS = {
    LUNGS: "lungs by segment_lungs on a grid of at most 3 mm, of the generated volume and of the whole CT",
    RATIO: "width between the lungs in their lower half over width across both, by the lung network in DRRs (PA, same "
    "pose) of the generated volume and of the CT on the same grid; counts lung behind the heart",
    RATIO_XRAY: "the same of the generated volume's DRR and of the X-ray itself",
}


def lungs_of(volume: Volume) -> tuple[Bool[np.ndarray, "d h w"], Volume]:
    """Mask of the lungs and the coarser volume that it belongs to."""
    coarse = downsample(volume, GRID_MM)
    return segment_lungs(coarse.hu, coarse.spacing), coarse


def lung_ml(lungs: Bool[np.ndarray, "d h w"], spacing: tuple[float, float, float]) -> float:
    """Volume of a mask in ml; NaN if it is empty, since no lungs were found."""
    return float(lungs.sum() * np.prod(spacing) / 1000.0) or float("nan")


def centre_of(lungs: Bool[np.ndarray, "d h w"], spacing: tuple[float, float, float]) -> Float[np.ndarray, "3"]:
    """Centroid in mm `(D, H, W)` from the centre of the volume; 0 of an empty mask."""
    if not lungs.any():
        return np.zeros(3)
    return (np.mean(np.nonzero(lungs), axis=1) - (np.array(lungs.shape) - 1) / 2.0) * spacing


def volume_ratio(hu: Float[Tensor, "d h w"], spacing: tuple[float, float, float]) -> float:
    """Cardiothoracic ratio in the PA DRR of a volume; NaN where the lung network finds no two lungs."""
    extent = tuple(n * s for n, s in zip(hu.shape, spacing, strict=True))
    drr = scaled_drr(hu.float(), spacing, tuple(view_pose(extent).tolist()), (SIDE, SIDE))
    return float("nan") if drr.isnan().all() else xray_ratio(drr)


def xray_ratio(xray: Float[Tensor, "h w"]) -> float:
    """Cardiothoracic ratio of an X-ray in [0, 1]; NaN where the lung network finds no two lungs."""
    return width_ratio(find_lungs(xray).sides)


def mask_volumes(folder: str | Path | None, name: str) -> dict[str, tuple[float, float]]:
    """`{"<structure>_ml": (generated, true)}` of masks in `<name>_generated/` and `<name>_true/` below a folder.

    The masks are NIfTI files such as TotalSegmentator's `pleural_effusion.nii.gz`; voxels above 0 count. {} without a
    folder, or for a pair that has none. UserError for a structure in only one of both folders, and a damaged mask.
    """
    if folder is None:
        return {}
    places = [Path(folder).expanduser() / f"{file_name(name)}_{end}" for end in ("generated", "true")]
    found = [{volume_name(f): f for f in _masks(place)} for place in places]
    if odd := sorted(found[0].keys() ^ found[1].keys()):
        lacks = places[odd[0] in found[0]]
        raise UserError(f"masks={folder}: {lacks} has no {odd[0]}; segment the same structures in both volumes")
    return {f"{key}_ml": tuple(_ml(files[key]) for files in found) for key in sorted(found[0])}


def _masks(folder: Path) -> list[Path]:
    return visible(f for f in folder.glob("*") if f.name.lower().endswith(NIFTI_ENDINGS)) if folder.is_dir() else []


def _ml(file: Path) -> float:
    with open_nifti(file) as image:
        voxel = abs(float(np.linalg.det(image.affine[:3, :3])))
        return float((np.asarray(image.dataobj) > 0).sum() * voxel / 1000.0)


def expect_masks(folder: str | Path | None) -> None:
    """Raises UserError if `folder` is given and does not exist."""
    if folder is not None and not Path(folder).expanduser().is_dir():
        raise UserError(f"masks={folder}: no such folder; give one with <id>_generated/ and <id>_true/")
