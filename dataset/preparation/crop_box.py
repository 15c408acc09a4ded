"""The crop box of a CT: both lungs with a margin, or the body where the lung segmentation is not plausible."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from common.errors import UserError
from dataset.imaging.hu_window import AIR_HU
from dataset.imaging.lung_segmentation import segment_lungs
from dataset.imaging.patient_mask import continued, patient_mask
from dataset.imaging.resampling import downsample
from dataset.imaging.volume import Volume

KINDS = ("lungs", "body", "whole")
COARSE_MM = 2.0  # voxel size of the segmentation
BODY_ABOVE_HU = -300.0
SIDES = (("bottom", "top"), ("front", "back"), ("right", "left"))  # of the axes D, H, W
ONE_SIDED = 0.1  # volume of the smaller lung over that of the larger, below which it is missing

Segmenter = Callable[[Float[np.ndarray, "d h w"], tuple[float, float, float]], Bool[np.ndarray, "d h w"]]
Box = tuple[slice, slice, slice]


@dataclass
class CropBox:
    """The part of a volume to keep."""

    box: Box  # voxels of the volume, with the margin; a box of lungs may exceed the volume (`coverage.cropped`)
    kind: str  # lungs, body or whole
    lung_ml: tuple[float, float]  # right, left
    lungs: Bool[np.ndarray, "d h w"]  # mask on the grid of `coarse`
    patient: Bool[np.ndarray, "d h w"]  # mask on the grid of `coarse`
    coarse: Volume  # the volume at about 2 mm
    flags: list[str] = field(default_factory=list)  # remarks for the user


def find_crop_box(
    volume: Volume,
    kind: str = "lungs",
    margin: float = 15.0,
    min_lung_ml: float = 1000.0,
    segmenter: Segmenter = segment_lungs,
) -> CropBox:
    """The box of the lungs or the body, or the whole volume. The lungs are measured in each case.

    Args:
        kind: `lungs`, `body` or `whole`.
        margin: mm around the lungs on all sides, also where the scan ends; around the body within the volume.
        min_lung_ml: both lungs together. With less, or a missing lung, the body is kept and flagged.
        segmenter: maps HU and spacing to a lung mask.
    """
    coarse = downsample(Volume(continued(volume.hu), volume.spacing, volume.centre), COARSE_MM)
    patient = patient_mask(coarse.hu, coarse.spacing)
    lungs = segmenter(np.where(patient, coarse.hu, np.float32(AIR_HU)), coarse.spacing)  # no air of a hollow table
    right, left = lung_volumes(lungs, coarse)
    found = CropBox(tuple(slice(0, n) for n in volume.hu.shape), "whole", (right, left), lungs, patient, coarse)
    if right + left < min_lung_ml:
        found.flags.append(f"lungs of {right + left:.0f} ml, less than {min_lung_ml:.0f}")
    elif min(right, left) < ONE_SIDED * max(right, left):
        found.flags.append(f"the {'right' if right < left else 'left'} lung is missing ({min(right, left):.0f} ml)")
    plausible = not found.flags
    found.flags += [
        f"lungs cut at the {side} of the scan" for i, side in ((0, "bottom"), (-1, "top")) if lungs[i].any()
    ]
    if kind == "whole":
        return found
    found.kind, mask = ("lungs", lungs) if kind == "lungs" and plausible else ("body", patient)
    found.flags += ["body kept instead of lungs"] if found.kind != kind else []
    if mask.any():
        found.box = _box(mask, coarse.spacing, volume, margin)
    if found.kind == "lungs":
        found.flags += _ends(found.box, volume, patient)
    else:
        found.box = tuple(
            slice(max(0, part.start), min(n, part.stop)) for part, n in zip(found.box, volume.hu.shape, strict=True)
        )
    return found


def lung_volumes(lungs: Bool[np.ndarray, "d h w"], volume: Volume) -> tuple[float, float]:
    """ml of lung on the patient's right and left of the midline of the tissue."""
    tissue = np.cumsum((volume.hu > BODY_ABOVE_HU).sum(axis=(0, 1)))
    middle = int(np.searchsorted(tissue, tissue[-1] / 2.0))
    voxel_ml = float(np.prod(volume.spacing)) / 1000.0
    return float(lungs[:, :, :middle].sum() * voxel_ml), float(lungs[:, :, middle:].sum() * voxel_ml)


@functools.cache
def make_segmenter(name: str = "threshold", weights: str | Path | None = None) -> Segmenter:
    """The lung segmenter `threshold`, or `lungmask` with its R231 weights. It downloads nothing.

    `weights` is the file `unet_r231-….pth` of lungmask; None looks in torch's hub cache. Raises UserError for another
    name, and if the package or the weights of lungmask are missing.
    """
    if name == "threshold":
        return segment_lungs
    if name != "lungmask":
        raise UserError(f"segmenter={name}: choose threshold or lungmask")
    try:
        from lungmask import LMInferer
        from lungmask.mask import MODEL_URLS
    except ImportError as error:
        raise UserError("segmenter=lungmask: not installed; pip install lungmask, or segmenter=threshold") from error
    import torch

    cached = Path(torch.hub.get_dir(), "checkpoints", Path(MODEL_URLS["R231"][0]).name)
    file = Path(weights).expanduser() if weights else cached
    if not file.is_file():
        raise UserError(
            f"segmenter=lungmask: no weights at {file}; copy lungmask's R231 file there, name it with "
            "lungmask_weights=<file>, or use segmenter=threshold"
        )
    inferer = LMInferer(modelpath=str(file), force_cpu=True, tqdm_disable=True)
    # lungmask expects axial slices, anterior up, inferior to superior: the order of our arrays
    return lambda hu, spacing: inferer.apply(np.asarray(hu, dtype=np.float32)) > 0


def _box(mask: Bool[np.ndarray, "d h w"], coarse: tuple[float, float, float], volume: Volume, margin: float) -> Box:
    """The box of a coarse mask in voxels of the volume; both grids have the same outer edges."""
    box, parts = [], ndimage.find_objects(mask.astype(np.uint8))[0]
    for part, step, fine in zip(parts, coarse, volume.spacing, strict=True):
        low, high = (part.start * step - margin) / fine, (part.stop * step + margin) / fine
        box.append(slice(int(np.floor(low + 1e-6)), int(np.ceil(high - 1e-6))))
    return tuple(box)


def _ends(box: Box, volume: Volume, patient: Bool[np.ndarray, "d h w"]) -> list[str]:
    """Remarks on the sides where the box exceeds the scan and the patient goes on."""
    found = []
    for axis, (part, n, step) in enumerate(zip(box, volume.hu.shape, volume.spacing, strict=True)):
        for side, voxels, edge in zip(SIDES[axis], (-part.start, part.stop - n), (0, -1), strict=True):
            if voxels > 0 and np.moveaxis(patient, axis, 0)[edge].any():
                found.append(
                    f"scan ends {voxels * step:.0f} mm before the box at the {side}; not-scanned voxels marked"
                )
    return found
