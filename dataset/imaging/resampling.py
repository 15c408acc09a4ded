"""Resampling of CT volumes: to the grid of the model, to block means, or onto another volume."""

import numpy as np
import torch
from jaxtyping import Float
from scipy.ndimage import gaussian_filter
from torch.nn import functional as F

from dataset.imaging.geometry import nifti_affine, voxel_centres
from dataset.imaging.hu_window import AIR_HU
from dataset.imaging.volume import Volume


def resample(volume: Volume, size: tuple[int, int, int], spacing: tuple[float, float, float] | None = None) -> Volume:
    """The volume on a grid of `size` voxels `(D, H, W)`, low-pass filtered before shrinking.

    Without `spacing` the whole volume is resized and keeps its extent. With `spacing` (mm, `(D, H, W)`) it is
    resampled to that spacing, then cropped or padded with air around its centre.
    """
    if spacing is None:
        spacing = tuple(float(e / n) for e, n in zip(volume.extent, size, strict=True))
        return Volume(_resized(volume.hu, size), spacing, tuple(float(c) for c in volume.centre))
    wanted = [max(1, round(e / s)) for e, s in zip(volume.extent, spacing, strict=True)]
    hu = _low_pass(volume, [n / w for n, w in zip(volume.hu.shape, wanted, strict=True)])[None]
    from monai.data import MetaTensor  # takes seconds to import
    from monai.transforms import Compose, Orientation, ResizeWithPadOrCrop, Spacing

    steps = [
        # edge to edge; from centre to centre the result often lacks a voxel, which would be padded with air
        Spacing(spacing, mode="bilinear", padding_mode="border", align_corners=False, scale_extent=True),
        ResizeWithPadOrCrop(size, mode="constant", value=AIR_HU),
    ]
    chain = Compose([Orientation("SPL", labels=None), *steps])
    affine = nifti_affine(volume.spacing, volume.centre, volume.hu.shape)[:, [2, 1, 0, 3]]  # of the axes (D, H, W)
    image = chain(MetaTensor(hu, affine=torch.from_numpy(affine)))
    affine = np.asarray(image.affine, dtype=np.float64)
    middle = (np.array(image.shape[1:]) - 1) / 2.0
    return Volume(
        image[0].as_tensor().numpy().astype(np.float32),
        tuple(float(s) for s in np.linalg.norm(affine[:3, :3], axis=0)),
        tuple(float(c) for c in affine[:3, :3] @ middle + affine[:3, 3]),
    )


def downsample(volume: Volume, finest: float) -> Volume:
    """Block means of the volume with a spacing of at most `finest` mm and the same extent.

    Line integrals of block means are means of line integrals, so this suits X-rays with coarser pixels.
    """
    size = [-(-n // max(1, int(finest / s))) for n, s in zip(volume.hu.shape, volume.spacing, strict=True)]
    if size == list(volume.hu.shape):
        return volume
    hu = F.interpolate(torch.from_numpy(volume.hu)[None, None], size=size, mode="area")[0, 0].numpy()
    return Volume(hu, tuple(e / n for e, n in zip(volume.extent, size, strict=True)), volume.centre)


def resample_onto(volume: Volume, frame: Volume, size: tuple[int, int, int]) -> Float[np.ndarray, "d h w"]:
    """HU of `volume` on a grid of `size` voxels over the extent of `frame` in world coordinates, with air outside."""
    hu = _low_pass(volume, [e / n / s for e, n, s in zip(frame.extent, size, volume.spacing, strict=True)])
    right, front, up = np.subtract(frame.centre, volume.centre)  # RAS; the array runs up, back, left
    points = voxel_centres(size, frame.extent) + torch.tensor([up, -front, -right], dtype=torch.float32)
    grid = (points * 2.0 / torch.tensor(volume.extent)).flip(-1)[None]
    sampled = F.grid_sample(hu[None, None] - AIR_HU, grid, mode="bilinear", align_corners=False)  # pads with 0
    return (sampled[0, 0] + AIR_HU).numpy()


def _resized(hu: Float[np.ndarray, "d h w"], size: tuple[int, int, int]) -> Float[np.ndarray, "p q r"]:
    """HU on a grid of `size` voxels of the same extent: `_low_pass`, then linear interpolation.

    Both are linear and act on one axis at a time, so an axis is multiplied by the matrix of both: a third of the time
    of a filter over all voxels where the grid is much coarser. The last axis is first, since it is contiguous.
    """
    found = torch.from_numpy(np.ascontiguousarray(hu, dtype=np.float32)) - AIR_HU  # air stays exact: it is 0
    for axis in (2, 1, 0):
        n, m = found.shape[axis], size[axis]
        if n == m:
            continue
        filtered = torch.from_numpy(gaussian_filter(np.eye(n), (_sigma(n / m), 0.0), mode="nearest", truncate=3.0))
        matrix = F.interpolate(filtered.T[None], size=m, mode="linear", align_corners=False)[0].T.float()
        found = torch.tensordot(matrix, found, ([1], [axis])).movedim(0, axis)
    return (found + AIR_HU).contiguous().numpy()


def _low_pass(volume: Volume, factors) -> torch.Tensor:
    """HU after scikit-image's anti-aliasing filter: a Gaussian of `(factor - 1) / 2` voxels for each shrink factor."""
    sigma = [_sigma(factor) for factor in factors]
    return torch.from_numpy(gaussian_filter(volume.hu, sigma, mode="nearest", truncate=3.0))


def _sigma(factor: float) -> float:
    """Standard deviation in voxels of the anti-aliasing Gaussian for a shrink factor."""
    return max(0.0, (factor - 1.0) / 2.0)
