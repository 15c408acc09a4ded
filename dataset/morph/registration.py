"""Registration of two chests in the boxes of their lungs: a velocity field that maps one to the other and back.

Symmetric log-domain demons (Vercauteren et al. 2008, doi 10.1007/978-3-540-85988-8_90) with SimpleITK's demons as the
step: the residual displacements of both directions, registered on the images warped so far, update one velocity.
"""

import numpy as np
import SimpleITK as sitk
import torch
from jaxtyping import Float
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn import functional as F

from common.errors import UserError
from dataset.morph.velocity import exponential, identity, jacobian, resize, sample

GRID = (96, 80, 104)  # voxels of the registration (D, H, W)
FIELD = (48, 40, 52)  # voxels of a velocity field
LEVELS = ((4, 8, 10), (2, 6, 8), (1, 2, 6))  # shrink factor, updates of the velocity, iterations of a step
STEP_SMOOTHING, SMOOTHING = (
    1.5,
    0.9,
)  # standard deviation in voxels: of a step at its level, of the velocity on `FIELD`
CENTRE_HU, WIDTH_HU = -300.0, 500.0  # grey values tanh((HU - centre) / width) show lung, soft tissue and bone alike
REGISTRATION_VERSION = 1


def register(first: Float[Tensor, "d h w"], second: Float[Tensor, "d h w"], names: str) -> Float[Tensor, "3 i j k"]:
    """Velocity on `FIELD`: its exponential maps points of `first` to those of `second` that look alike.

    The exponential of its negative maps back. Both volumes are HU on `GRID`; `names` stands in messages. UserError for
    a map that folds.
    """
    velocity = torch.zeros(3, *FIELD)
    volumes = [torch.tanh((hu - CENTRE_HU) / WIDTH_HU) for hu in (first, second)]
    for shrink, updates, iterations in LEVELS:
        size = tuple(n // shrink for n in GRID)
        first, second = (_coarse(volume, size) for volume in volumes)
        for _ in range(updates):
            forward = _step(first, _warped(second, velocity), iterations)
            backward = _step(second, _warped(first, -velocity), iterations)
            velocity = _smooth(velocity + 0.5 * resize(forward - backward, FIELD))
    smallest = min(float(jacobian(exponential(way)).min()) for way in (velocity, -velocity))
    if not smallest > 0.0:
        raise UserError(
            f"{names}: the registration folds (smallest Jacobian {smallest:.2f}); leave out one of the two"
        )
    return velocity


def _coarse(volume: Tensor, size: tuple[int, int, int]) -> Tensor:
    return F.interpolate(volume[None, None], size=size, mode="area")[0, 0]


def _warped(volume: Tensor, velocity: Tensor) -> Tensor:
    size = tuple(volume.shape)
    return sample(volume[None], identity(size) + resize(exponential(velocity), size))[0]


def _step(fixed: Tensor, moving: Tensor, iterations: int) -> Float[Tensor, "3 d h w"]:
    """Displacement after a few iterations of demons, in box coordinates."""
    demons = sitk.DiffeomorphicDemonsRegistrationFilter()
    demons.SetNumberOfIterations(iterations)
    demons.SetStandardDeviations(STEP_SMOOTHING)
    demons.SetSmoothDisplacementField(True)
    field = demons.Execute(*(sitk.GetImageFromArray(volume.numpy()) for volume in (fixed, moving)))
    voxels = torch.from_numpy(sitk.GetArrayFromImage(field).astype(np.float32)).permute(3, 0, 1, 2)
    return voxels * 2.0 / torch.tensor(fixed.shape[::-1], dtype=torch.float32).view(3, 1, 1, 1)


def _smooth(velocity: Tensor) -> Tensor:
    return torch.from_numpy(gaussian_filter(velocity.numpy(), (0, *[SMOOTHING] * 3), mode="nearest"))
