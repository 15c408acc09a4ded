"""Random changes of shape, as velocities on `FIELD`, and of HU by tissue."""

import functools

import numpy as np
import torch
from jaxtyping import Float
from scipy.ndimage import zoom
from torch import Tensor

from dataset.morph.anatomy import Anatomy, centre_of
from dataset.morph.registration import FIELD
from dataset.morph.settings import MorphSettings
from dataset.morph.velocity import identity, linear, resize

SMOOTH_CELLS = (4, 8)  # cells along each axis of coarse and fine random fields
LUNG_HU = (-600.0, -400.0)  # lung tissue below, vessel and border above: density changes fade out between
BONE_HU = 200.0


def random_velocity(anatomy: Anatomy, settings: MorphSettings, rng: np.random.Generator) -> Float[Tensor, "3 d h w"]:
    """Smooth fields at two scales, an affine map, parts that move apart from each other, and the chest wall."""
    box = torch.tensor(anatomy.extent[::-1], dtype=torch.float32).view(3, 1, 1, 1) / 2.0  # mm of a unit, x, y, z
    velocity = linear(_normal(rng, (3, 3)) * settings.affine, torch.zeros(3), FIELD)
    for deviation, cells in zip(settings.smooth_mm, SMOOTH_CELLS, strict=True):
        velocity = velocity + smooth_noise(rng, 3, cells) * deviation / box
    for name in ("right_diaphragm", "left_diaphragm"):
        velocity[2] += anatomy.parts[name] * float(rng.normal(0.0, 1.5 * settings.organs_mm)) / box[2]
    for name in ("heart", "shoulders"):
        part = anatomy.parts[name]
        velocity = velocity + part * (_normal(rng, (3, 1, 1, 1)) * settings.organs_mm / box)
    heart = anatomy.parts["heart"]
    growth = float(rng.normal(0.0, settings.organs_mm / 50.0))  # a heart has a radius of about 50 mm
    velocity = velocity - heart * growth * (identity(FIELD) - centre_of(heart).view(3, 1, 1, 1))
    return velocity - anatomy.wall * float(rng.normal(0.0, settings.wall)) / box  # a warp pulls: growth is negative


def smooth_noise(rng: np.random.Generator, channels: int, cells: int) -> Float[Tensor, "c d h w"]:
    """Smooth random fields with a standard deviation of 1: cubic splines through independent values per cell."""
    noise = _normal(rng, (channels, *[cells] * 3))
    field = torch.einsum("cijk,di,hj,wk->cdhw", noise, *(_splines(n, cells) for n in FIELD))
    return field / field.std()


@functools.cache
def _splines(n: int, cells: int) -> Float[Tensor, "n cells"]:
    """Values at `n` voxels of the cubic spline through each of `cells` unit impulses."""
    splines = zoom(np.eye(cells), (n / cells, 1), order=3, mode="nearest", grid_mode=True)
    return torch.from_numpy(splines.astype(np.float32))


def lung_density(lungs: Float[Tensor, "d h w"], settings: MorphSettings, rng: np.random.Generator) -> Tensor:
    """Relative change of the density of the lungs, 0 elsewhere, on the grid of their mask."""
    variation = resize(smooth_noise(rng, 1, SMOOTH_CELLS[1]), tuple(lungs.shape))[0]
    change = float(rng.normal(0.0, settings.lung_density)) + 0.5 * settings.lung_density * variation
    return lungs * torch.expm1(change)


def changed_hu(
    hu: Float[Tensor, "d h w"],
    iodine: Float[Tensor, "d h w"],
    density: Float[Tensor, "d h w"],
    settings: MorphSettings,
    rng: np.random.Generator,
) -> tuple[Float[Tensor, "d h w"], Float[Tensor, "d h w"]]:
    """HU with another density of lungs and bone and another share of iodine, and that iodine; air and water stay.

    Density is `(HU + 1000) / 1000` in g/ml, `density` its relative change in lung tissue.
    """
    bare = hu - iodine
    bone = (bare - BONE_HU).clamp_(min=0.0)
    kept = iodine * float(rng.uniform(*settings.contrast))
    weight = ((LUNG_HU[1] - bare) / (LUNG_HU[1] - LUNG_HU[0])).clamp_(0.0, 1.0)
    changed = bare + weight.mul_(density).mul_(bare + 1000.0)
    return changed.add_(bone, alpha=float(np.expm1(rng.normal(0.0, settings.bone_density)))).add_(kept), kept


def _normal(rng: np.random.Generator, shape) -> Tensor:
    return torch.from_numpy(rng.normal(0.0, 1.0, shape).astype(np.float32))
