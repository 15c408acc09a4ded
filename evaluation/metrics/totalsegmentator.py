"""Dice of organs from TotalSegmentator's output folders of both volumes; TotalSegmentator is not run here."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from common.errors import UserError
from dataset.imaging.geometry import nifti_affine
from evaluation.metrics.base import CaseView, Metric, NotMeasured
from evaluation.metrics.dice import dice

ORGANS = {  # the names of its files; several together make one organ
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
    """Masks of `ORGANS` from one output folder of TotalSegmentator (a NIfTI a structure), on the grid of the volume.

    An organ of which a file is missing is left out.

    Raises:
        UserError: a mask on another grid than the volume: both are named, nothing is resized.
    """
    folder, found = Path(folder), {}
    wanted = nifti_affine(spacing, centre, size)
    for organ, names in ORGANS.items():
        files = [folder / f"{name}.nii.gz" for name in names]
        if not all(file.is_file() for file in files):
            continue
        masks = [_read(file, size, wanted) for file in files]
        found[organ] = torch.from_numpy(np.any(masks, axis=0))
    return found


def _read(file: Path, size: tuple[int, int, int], wanted: np.ndarray) -> np.ndarray:
    import nibabel as nib  # only here: scoring tensors needs no file format

    try:
        image = nib.load(file)
        turn = nib.orientations.ornt_transform(
            nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(("L", "P", "S"))
        )
        image = image.as_reoriented(turn)
        mask = np.asarray(image.dataobj).transpose(2, 1, 0) > 0
    except (OSError, EOFError, ValueError, nib.filebasedimages.ImageFileError) as error:
        raise UserError(f"{file}: damaged or not NIfTI ({error}); run TotalSegmentator again") from error
    if mask.shape != tuple(size):
        raise UserError(f"{file}: {mask.shape} voxels against a volume of {tuple(size)}; segment that very volume")
    if np.abs(image.affine - wanted).max() > AFFINE_MM:
        raise UserError(
            f"{file}: its affine {image.affine.round(2).tolist()} is not the volume's {wanted.round(2).tolist()}; "
            "segment that very volume"
        )
    return mask


def _organ_dice(organ: str):
    def compute(view: CaseView) -> Float[Tensor, " m"]:
        masks = view.case.get("organs")
        if masks is None:
            raise NotMeasured("no folder of TotalSegmentator's masks given")
        truth = masks.get("truth", {}).get(organ)
        if truth is None or not truth.any():
            raise NotMeasured(f"TotalSegmentator's masks of the truth hold no {organ}")
        values = []
        for name in view.names:
            mask = masks.get(name, {}).get(organ)
            values.append(torch.tensor(float("nan")) if mask is None else dice(mask, truth))
        return torch.stack(values)

    return compute


METRICS = tuple(
    Metric(
        f"totalsegmentator_{organ}",
        f"{organ} Dice, TotalSegmentator",
        "",
        "high",
        3,
        _organ_dice(organ),
        f"Dice of {' + '.join(names)} as TotalSegmentator found them in both volumes",
    )
    for organ, names in ORGANS.items()
)
