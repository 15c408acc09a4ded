"""Random patients: each has the tissue of one patient in a shape between and beyond several others."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dataset.imaging.coverage import SCANNED_SHARE
from dataset.imaging.iodine import IODINE_HU
from dataset.imaging.lung_segmentation import GAS_BELOW_HU
from dataset.imaging.volume import Volume
from dataset.morph.anatomy import Anatomy, lung_faces
from dataset.morph.random_change import changed_hu, lung_density, random_velocity
from dataset.morph.registration import GRID
from dataset.morph.settings import MorphSettings
from dataset.morph.velocity import exponential, identity, interpolate, jacobian, resize, sample

WEAKENED = 0.8  # factor of a velocity that folds
MOST_PARENTS = 3  # patients besides the one with the tissue


class Morph(NamedTuple):
    """A random patient: volume in HU, the voxels that the scan of its tissue covered, and its contrast medium."""

    volume: Volume
    scanned: Bool[np.ndarray, "d h w"]
    iodine_ml: float  # ml of voxels that iodine raises above `IODINE_HU`


@dataclass(frozen=True)
class Recipe:
    """The parents of a morph: whose tissue, and the weights of the velocities towards others, by patient."""

    tissue: str
    towards: dict[str, float]

    @property
    def parents(self) -> list[str]:
        """All parents, sorted."""
        return sorted({self.tissue, *self.towards})


def draw_recipe(neighbours: dict[str, list[str]], settings: MorphSettings, seed: int, index: int) -> Recipe:
    """The parents of morph `index`; `neighbours` lists for each patient those it is registered to."""
    rng = np.random.default_rng((seed, index, 0))
    patients = sorted(neighbours)
    tissue = patients[int(rng.integers(len(patients)))]
    others = sorted(neighbours[tissue])
    count = min(len(others), int(rng.integers(1, MOST_PARENTS + 1)))
    if count == 0:
        return Recipe(tissue, {})
    chosen = rng.permutation(others)[:count]
    shares = rng.dirichlet(np.ones(count)) * rng.uniform(*settings.towards)
    return Recipe(tissue, {str(name): float(share) for name, share in zip(chosen, shares, strict=True)})


def make_morph(
    recipe: Recipe,
    anatomy: Callable[[str], Anatomy],
    velocity: Callable[[str, str], Tensor | None],
    settings: MorphSettings,
    stream: tuple[int, int],
) -> Morph:
    """A random patient in HU.

    `velocity(a, b)` maps points of `a` to those of `b`, None leaves the pair out; `stream` is the seed and the index.
    Voxels have about the size of those of the tissue, and the box has its margins around the warped lungs.
    """
    rng = np.random.default_rng((*stream, 1))
    own = anatomy(recipe.tissue)
    field, log_extent = random_velocity(own, settings, rng), np.log(own.extent)
    for name, share in recipe.towards.items():
        if (towards := velocity(name, recipe.tissue)) is not None:
            field = field + share * towards
            log_extent = log_extent + share * (np.log(anatomy(name).extent) - np.log(own.extent))
    size = float(rng.normal(0.0, settings.size)) + rng.normal(0.0, settings.size / 2.0, 3)
    extent = np.exp(log_extent + size)
    displacement = exponential(field)
    while not float(jacobian(displacement).min()) > 0.0:  # the grid is too coarse for a flow that is this strong
        field = field * WEAKENED
        displacement = exponential(field)
    lungs = sample(own.coarse_lungs, identity(GRID) + resize(displacement, GRID))
    low, high = _margins_around(lungs, own.margins * 2.0 / extent)
    spacing = np.prod(own.extent / np.array(own.tissue.shape[1:])) ** (1.0 / 3.0)
    grid = tuple(max(4, round(float(length / spacing))) for length in (high - low) / 2.0 * extent)
    points = interpolate(displacement, low, high, grid) + _points(low, high, grid)
    hu, iodine, *marks = sample(own.tissue, points)
    density = interpolate(lung_density(lungs[0], settings, rng)[None], low, high, grid)[0]
    scanned = _scanned(points, hu, *marks)
    hu, iodine = changed_hu(hu, iodine, density, settings, rng)
    length = (high - low) / 2.0 * extent / np.array(grid)
    opaque = float(((hu > IODINE_HU) & (hu - iodine <= IODINE_HU)).sum())
    volume = Volume(hu.numpy(), tuple(float(s) for s in length))
    return Morph(volume, scanned.numpy(), opaque * float(np.prod(length)) / 1000.0)


def _points(low: np.ndarray, high: np.ndarray, size: tuple[int, int, int]) -> Float[Tensor, "3 d h w"]:
    """Box coordinates of a grid of `size` voxels from `low` to `high` (D, H, W)."""
    middle, half = (
        (torch.from_numpy(v[::-1].copy()).float().view(3, 1, 1, 1)) for v in ((low + high) / 2, (high - low) / 2)
    )
    return middle + half * identity(size)


def _margins_around(lungs: Float[Tensor, "1 d h w"], margins: Float[np.ndarray, "2 3"]) -> np.ndarray:
    """Low and high faces of the box with these margins around the lungs, in box coordinates (D, H, W)."""
    faces = lung_faces(lungs > 0.5)
    return np.stack([faces[0] - margins[0], faces[1] + margins[1]])


def _scanned(points: Float[Tensor, "3 d h w"], hu: Tensor, share: Tensor | None = None) -> Bool[Tensor, "d h w"]:
    """Points inside the scan of the tissue; `share` of each that was scanned there."""
    x, y, z = points.abs() <= 1.0
    beside = (x & y) | (hu < GAS_BELOW_HU)  # air continues beside the patient
    return z & beside if share is None else z & beside & (share > SCANNED_SHARE)
