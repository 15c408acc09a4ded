"""Organs from output folders of TotalSegmentator for both volumes, which the user runs: Dice, shape, heart size."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from common.errors import UserError
from dataset.imaging.geometry import nifti_affine
from evaluation.metrics.base import CaseView, Metric, NotMeasured
from evaluation.metrics.dice import dice
from evaluation.metrics.organs.shape import MEASURES

LOBES = (
    "lung_upper_lobe_left",
    "lung_lower_lobe_left",
    "lung_upper_lobe_right",
    "lung_middle_lobe_right",
    "lung_lower_lobe_right",
)
ORGANS = {  # file names; several form one organ
    "lungs": LOBES,
    "heart": ("heart",),
    "aorta": ("aorta",),
    "liver": ("liver",),
    **{name.removeprefix("lung_"): (name,) for name in LOBES},
    "ribs": tuple(f"rib_{side}_{number}" for side in ("left", "right") for number in range(1, 13)),
    "vertebrae": tuple(f"vertebrae_T{number}" for number in range(1, 13)),
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


def heart_to_thorax(masks: dict[str, Bool[Tensor, "d h w"]]) -> float:
    """Largest width of the heart over that of the lungs, from right to left; NaN without one of them."""
    widths = []
    for organ in ("heart", "lungs"):
        across = masks[organ].any(dim=0).any(dim=0).nonzero() if organ in masks else torch.zeros(0)
        widths.append(float(across.max() - across.min() + 1) if len(across) else float("nan"))
    return widths[0] / widths[1]


def _masks(view: CaseView) -> tuple[list[dict], dict]:
    """Masks of the predictions and of the truth, by organ, where the truth was scanned."""
    masks = view.case.get("organs")
    if masks is None:
        raise NotMeasured("no folder with TotalSegmentator's masks")
    *found, truth = (
        {organ: view.counted(mask) for organ, mask in masks.get(name, {}).items()} for name in (*view.names, "truth")
    )
    return found, truth


def _of_organ(organ: str, compute: Callable[[Tensor, Tensor, tuple], float]):
    def metric(view: CaseView) -> Float[Tensor, " m"]:
        found, truth = _masks(view)
        if organ not in truth or not truth[organ].any():
            raise NotMeasured(f"TotalSegmentator's masks of the truth hold no {organ}")
        values = [compute(own[organ], truth[organ], view.spacing) if organ in own else torch.nan for own in found]
        return torch.tensor(values)

    return metric


def _heart_size(view: CaseView) -> Float[Tensor, " m"]:
    found, truth = _masks(view)
    wanted = heart_to_thorax(truth)
    if wanted != wanted:
        raise NotMeasured("TotalSegmentator's masks of the truth hold no heart and lungs")
    return torch.tensor([abs(heart_to_thorax(own) - wanted) for own in found])


def _label(organ: str) -> str:
    return f"{organ.replace('_', ' ')}, TotalSegmentator"


METRICS = (
    *(
        Metric(
            f"totalsegmentator_{organ}",
            f"Dice of {_label(organ)}",
            _of_organ(organ, lambda found, truth, spacing: float(dice(found, truth))),
            f"Dice of {organ} as TotalSegmentator found them in both volumes",
        )
        for organ in ORGANS
    ),
    *(
        Metric(
            f"totalsegmentator_{organ}_{name}",
            f"{label} of {_label(organ)}",
            _of_organ(organ, compute),
            f"{text}; {organ} as TotalSegmentator found them in both volumes",
            unit,
            "low",
            1,
        )
        for organ in ORGANS
        for name, (compute, label, unit, text) in MEASURES.items()
    ),
    Metric(
        "totalsegmentator_cardiothoracic_ratio",
        "cardiothoracic ratio error, TotalSegmentator",
        _heart_size,
        "|ratio - truth's| of the largest width of the heart to that of the lungs, from right to left",
        "",
        "low",
        3,
    ),
)
