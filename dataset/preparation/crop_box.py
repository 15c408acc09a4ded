"""The volume of interest of a CT: the box of both lungs with a margin, or of the body where no lung can be trusted."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from common.errors import UserError
from dataset.imaging.lung_segmentation import segment_lungs
from dataset.imaging.resampling import downsample
from dataset.imaging.volume import Volume

KINDS = ("lungs", "body", "whole")
COARSE_MM = 2.0  # a box needs no finer voxels
BODY_ABOVE_HU = -300.0
TABLE_MM = 5.0  # thinner than this is table, blanket or tube
ONE_SIDED = 0.1  # share of the smaller lung of the larger: less is a missing lung (2 to 1 is still a normal pair)

Segmenter = Callable[[Float[np.ndarray, "d h w"], tuple[float, float, float]], Bool[np.ndarray, "d h w"]]
Box = tuple[slice, slice, slice]


@dataclass
class Interest:
    """What is kept of a volume.

    Attributes:
        box: voxels of the volume, with the margin.
        kind: lungs, body or whole.
        lung_ml: volume of the lungs on the patient's right and left, ml; None if they were not looked for.
        lungs: the mask at about 2 mm, and `coarse` the volume that it lies on.
        flags: what to look at.
    """

    box: Box
    kind: str
    lung_ml: tuple[float, float] | None = None
    lungs: Bool[np.ndarray, "d h w"] | None = None
    coarse: Volume | None = None
    flags: list[str] = field(default_factory=list)


def interest(
    volume: Volume,
    voi: str = "lungs",
    margin: float = 15.0,
    least_ml: float = 1000.0,
    segmenter: Segmenter | None = None,
) -> Interest:
    """The volume of interest.

    Args:
        voi: `lungs`, `body` or `whole`. Lungs are measured in each case.
        margin: mm around the box on all sides, as far as the volume reaches.
        least_ml: both lungs together; with less, or with one missing, the body is kept and a flag says why.
        segmenter: HU and spacing to a mask; `dataset.imaging.lung_segmentation.segment_lungs` by default.

    Raises:
        ValueError: another `voi`.
    """
    if voi not in KINDS:
        raise ValueError(f"voi={voi}: choose {', '.join(KINDS)}")
    coarse = downsample(Volume(volume.hu, volume.spacing, volume.centre), COARSE_MM)
    lungs = (segmenter or segment_lungs)(coarse.hu, coarse.spacing)
    right, left = lung_volumes(lungs, coarse)
    found = Interest(tuple(slice(0, n) for n in volume.hu.shape), "whole", (right, left), lungs, coarse)
    if right + left < least_ml:
        found.flags.append(f"lungs of {right + left:.0f} ml, less than {least_ml:.0f}")
    elif min(right, left) < ONE_SIDED * max(right, left):
        found.flags.append(f"the {'right' if right < left else 'left'} lung is missing ({min(right, left):.0f} ml)")
    whole_lungs = not found.flags
    if lungs.any():
        for place, side in ((0, "bottom"), (-1, "top")):
            if lungs[place].any():
                found.flags.append(f"lungs cut at the {side} of the scan")
    if voi == "whole":
        return found
    if voi == "lungs" and whole_lungs:
        found.kind, mask = "lungs", lungs
    else:
        found.kind, mask = "body", body_mask(coarse)
        found.flags += ["body kept instead of lungs"] if voi == "lungs" else []
    if mask.any():
        found.box = _box(mask, coarse.spacing, volume, margin)
    return found


def cropped(volume: Volume, box: Box) -> Volume:
    """The part of a volume in a box of voxels, at its place."""
    middle = [(part.start + part.stop - n) / 2.0 for part, n in zip(box, volume.hu.shape, strict=True)]
    axes = volume.affine[:3, :3][:, ::-1]  # mm (RAS) a voxel along D, H, W
    centre = np.asarray(volume.centre) + axes @ np.array(middle)
    return Volume(volume.hu[box], volume.spacing, tuple(float(c) for c in centre), volume.direction)


def lung_volumes(lungs: Bool[np.ndarray, "d h w"], volume: Volume) -> tuple[float, float]:
    """ml on the patient's right and left of the middle of the body."""
    tissue = np.cumsum((volume.hu > BODY_ABOVE_HU).sum(axis=(0, 1)))
    middle = int(np.searchsorted(tissue, tissue[-1] / 2.0))
    voxel_ml = float(np.prod(volume.spacing)) / 1000.0
    return float(lungs[:, :, :middle].sum() * voxel_ml), float(lungs[:, :, middle:].sum() * voxel_ml)


def body_mask(volume: Volume) -> Bool[np.ndarray, "d h w"]:
    """The patient without the table: the largest piece of tissue after what is thin has gone."""
    tissue = volume.hu > BODY_ABOVE_HU
    kernel = np.ones([max(1, round(TABLE_MM / s)) if axis else 1 for axis, s in enumerate(volume.spacing)], dtype=bool)
    labels, count = ndimage.label(ndimage.binary_opening(tissue, kernel))
    if count == 0:
        return tissue
    return labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))


def make_segmenter(name: str = "threshold", weights: str | Path | None = None) -> Segmenter:
    """A lung segmenter: `threshold` needs nothing; `lungmask` the package and its R231 weights.

    Args:
        weights: the file `unet_r231-….pth` of lungmask; None looks in torch's hub cache. Nothing is downloaded.

    Raises:
        UserError: another name, the package is not installed, or the weights are not there.
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
    # axial slices anterior up, from below upward: the order of our arrays
    return lambda hu, spacing: inferer.apply(np.asarray(hu, dtype=np.float32)) > 0


def _box(mask: Bool[np.ndarray, "d h w"], coarse: tuple[float, float, float], volume: Volume, margin: float) -> Box:
    """The box of a coarse mask in voxels of the volume; both grids share their outer edges."""
    box = []
    for part, step, fine, n in zip(
        ndimage.find_objects(mask.astype(np.uint8))[0], coarse, volume.spacing, volume.hu.shape, strict=True
    ):
        low, high = (part.start * step - margin) / fine, (part.stop * step + margin) / fine
        box.append(slice(max(0, int(np.floor(low + 1e-6))), min(n, int(np.ceil(high - 1e-6)))))
    return tuple(box)
