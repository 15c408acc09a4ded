"""Dice of organs from output folders of TotalSegmentator for both volumes, which the user runs."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from common.errors import UserError
from dataset.imaging.geometry import nifti_affine
from evaluation.metrics.base import CaseView, Metric, NotMeasured
from evaluation.metrics.dice import dice

ORGANS = {  # file names; several form one organ
    "lungs": (
        "lung_upper_lobe_left",
        "lung_lower_lobe_left",
        "lung_upper_lobe_right",
        "lung_middle_lobe_right",
        "lung_lower_lobe_right",
    ),
    "heart": ("heart",),
    "aorta": ("aorta",),
    "liver": ("liver",),
}
AFFINE_MM = 0.1


def read_organs(
    folder: str | Path, size: tuple[int, int, int], spacing, centre=(0.0, 0.0, 0.0)
) -> dict[str, Bool[Tensor, "d h w"]]:
    """Masks of `ORGANS` from an output folder of TotalSegmentator (one NIfTI per structure), without missing organs.

    Raises UserError for a mask on another grid than the volume.
    """
    folder, found = Path(folder), {}
    wanted = nifti_affine(spacing, centre, size)
    for organ, names in ORGANS.items():
        files = [folder / f"{name}.nii.gz" for name in names]
        if all(file.is_file() for file in files):
            found[organ] = torch.from_numpy(np.any([_read(file, size, wanted) for file in files], axis=0))
    return found


def _read(file: Path, size: tuple[int, int, int], wanted: np.ndarray) -> np.ndarray:
    from dataset.imaging.volume import reorient
    from dataset.io.nifti import open_nifti  # late: scoring tensors needs no file format

    with open_nifti(file) as image:
        volume = reorient(np.asarray(image.dataobj), image.affine)
    if volume.hu.shape != tuple(size):
        raise UserError(f"{file}: {volume.hu.shape} voxels, the volume has {tuple(size)}; segment that very volume")
    if np.abs(volume.affine - wanted).max() > AFFINE_MM:
        raise UserError(
            f"{file}: its affine {volume.affine.round(2).tolist()} is not the volume's {wanted.round(2).tolist()}; "
            "segment that very volume"
        )
    return volume.hu > 0


def _organ_dice(organ: str):
    def compute(view: CaseView) -> Float[Tensor, " m"]:
        masks = view.case.get("organs")
        if masks is None:
            raise NotMeasured("no folder with TotalSegmentator's masks")
        truth = masks.get("truth", {}).get(organ)
        if truth is None or not truth.any():
            raise NotMeasured(f"TotalSegmentator's masks of the truth hold no {organ}")
        found = [masks.get(name, {}).get(organ) for name in view.names]
        return torch.stack([torch.tensor(torch.nan) if mask is None else dice(mask, truth) for mask in found])

    return compute


METRICS = tuple(
    Metric(
        f"totalsegmentator_{organ}",
        f"{organ} Dice, TotalSegmentator",
        _organ_dice(organ),
        f"Dice of {' + '.join(names)} as TotalSegmentator found them in both volumes",
    )
    for organ, names in ORGANS.items()
)
