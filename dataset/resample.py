"""From a CT of any size to the grid of the model: one MONAI transform chain, anti-aliased, with its geometry kept."""

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Orientation, Resize, ResizeWithPadOrCrop, Spacing
from scipy.ndimage import gaussian_filter
from torch.nn import functional as F

from dataset.geometry import nifti_affine
from dataset.intensity import AIR_HU
from dataset.volume_io import Volume


def resample(volume: Volume, size: tuple[int, int, int], spacing: tuple[float, float, float] | None = None) -> Volume:
    """The volume on a grid of `size` voxels `(D, H, W)`.

    Without `spacing` the whole volume is resized and its extent stays; with it (mm, `(D, H, W)`) the volume is
    resampled to that spacing, then cropped or padded with air around its centre.
    """
    wanted = size if spacing is None else [max(1, round(e / s)) for e, s in zip(volume.extent, spacing, strict=True)]
    # The low-pass of scikit-image before shrinking: a Gaussian of half the factor less one, in voxels.
    sigma = [max(0.0, (n / w - 1.0) / 2.0) for n, w in zip(volume.hu.shape, wanted, strict=True)]
    hu = torch.from_numpy(gaussian_filter(volume.hu, sigma, mode="nearest", truncate=3.0))[None]
    if spacing is None:
        steps = [Resize(size, mode="trilinear", align_corners=False)]
    else:
        steps = [
            Spacing(spacing, mode="bilinear", padding_mode="border", align_corners=False),
            ResizeWithPadOrCrop(size, mode="constant", value=AIR_HU),
        ]
    chain = Compose([Orientation("SPL", labels=None), *steps])
    image = chain(MetaTensor(hu, affine=torch.from_numpy(_affine(volume))))
    affine = np.asarray(image.affine, dtype=np.float64)
    middle = (np.array(image.shape[1:]) - 1) / 2.0
    return Volume(
        image[0].as_tensor().numpy().astype(np.float32),
        tuple(float(s) for s in np.linalg.norm(affine[:3, :3], axis=0)),
        tuple(float(c) for c in affine[:3, :3] @ middle + affine[:3, 3]),
    )


def reduced(volume: Volume, finest: float) -> Volume:
    """Block means of the volume so that its spacing comes near `finest` mm from below; the extent stays.

    Line integrals of the means are means of line integrals: enough for an X-ray whose pixels are coarser.
    """
    size = [-(-n // max(1, int(finest / s))) for n, s in zip(volume.hu.shape, volume.spacing, strict=True)]
    if size == list(volume.hu.shape):
        return volume
    hu = F.interpolate(torch.from_numpy(volume.hu)[None, None], size=size, mode="area")[0, 0].numpy()
    return Volume(hu, tuple(e / n for e, n in zip(volume.extent, size, strict=True)), volume.centre)


def _affine(volume: Volume) -> np.ndarray:
    """RAS affine of the array axes `(D, H, W)`: that of the NIfTI axes `(W, H, D)` with its columns reversed."""
    affine = nifti_affine(volume.spacing, volume.centre, volume.hu.shape)
    return affine[:, [2, 1, 0, 3]]
