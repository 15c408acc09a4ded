"""Rigid registration of one volume onto another of the same grid, for X-rays and CTs of different sessions.

Table position and breath differ between X-ray and CT, so voxel metrics penalise a shift that the X-ray does not show.
Evaluations report scores without and with registration.
"""

import numpy as np
import SimpleITK as sitk
import torch
from jaxtyping import Float
from torch import Tensor

from dataset.imaging.hu_window import AIR_HU

SOFT_HU = (-1000.0, 400.0)  # clip of the similarity, so that metal, iodine and bone do not dominate
LARGEST_DEGREES, LARGEST_MM = 30.0, 120.0  # a larger motion counts as a failure
LEVELS = ((4, 4.0), (2, 2.0), (1, 0.0))  # shrink factor and smoothing in mm per 2 mm of spacing
ITERATIONS = 200
SAMPLED = 0.2  # of the voxels


def rigidly_aligned(
    moving: Float[Tensor, "d h w"], fixed: Float[Tensor, "d h w"], spacing: tuple[float, float, float]
) -> Float[Tensor, "d h w"]:
    """`moving`, in HU, aligned to `fixed`; unchanged if the correlation does not increase.

    Maximises mutual information (Mattes et al. 2003) over a pyramid, with a fixed seed. Voxels from outside of the
    moving volume are air. Both volumes share grid and spacing (mm, `(D, H, W)`); ValueError if their sizes differ.
    """
    if moving.shape != fixed.shape:
        raise ValueError(f"moving volume {tuple(moving.shape)} and fixed volume {tuple(fixed.shape)} differ in size")
    images = [_image(volume.clamp(*SOFT_HU), spacing) for volume in (moving, fixed)]
    try:
        motion = _search(*images)
    except RuntimeError:  # no overlap, or a constant volume
        return moving.clone()
    angles = np.degrees([motion.GetAngleX(), motion.GetAngleY(), motion.GetAngleZ()])
    if np.abs(angles).max() > LARGEST_DEGREES or np.abs(motion.GetTranslation()).max() > LARGEST_MM:
        return moving.clone()
    moved = sitk.Resample(_image(moving, spacing), images[1], motion, sitk.sitkLinear, AIR_HU)
    moved = torch.from_numpy(sitk.GetArrayFromImage(moved))
    return moved if _correlation(moved, fixed) > _correlation(moving, fixed) else moving.clone()


def _search(moving: sitk.Image, fixed: sitk.Image) -> sitk.Euler3DTransform:
    start = sitk.Euler3DTransform()
    middle = [(n - 1) / 2.0 for n in fixed.GetSize()]
    start.SetCenter(fixed.TransformContinuousIndexToPhysicalPoint(middle))
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(SAMPLED, 1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(2.0, 1e-3, ITERATIONS, 0.6)
    method.SetOptimizerScalesFromPhysicalShift()
    levels = [(f, s) for f, s in LEVELS if min(fixed.GetSize()) // f >= 8] or [LEVELS[-1]]
    method.SetShrinkFactorsPerLevel([f for f, _ in levels])
    method.SetSmoothingSigmasPerLevel([s * fixed.GetSpacing()[0] / 2.0 for _, s in levels])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetNumberOfThreads(1)  # deterministic order of sums
    method.SetInitialTransform(start, inPlace=True)
    method.Execute(fixed, moving)
    start.SetParameters([round(p, 6) for p in start.GetParameters()])  # the last digits differ between machines
    return start


def _image(volume: Tensor, spacing: tuple[float, float, float]) -> sitk.Image:
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.detach().cpu().float().numpy()))
    image.SetSpacing([float(s) for s in reversed(spacing)])
    return image


def _correlation(a: Tensor, b: Tensor) -> float:
    pair = torch.stack([v.detach().cpu().float().clamp(*SOFT_HU).flatten() for v in (a, b)])
    return float(torch.corrcoef(pair)[0, 1].nan_to_num(posinf=0.0, neginf=0.0))
