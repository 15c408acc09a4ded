"""Random patients: each has the tissue of one patient in a shape between and beyond several others."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dataset.imaging.coverage import SCANNED_SHARE
from dataset.imaging.lung_segmentation import GAS_BELOW_HU
from dataset.imaging.volume import Volume
from dataset.morph.anatomy import Anatomy, lung_faces
from dataset.morph.random_change import SMOOTH_CELLS, changed_hu, random_velocity, smooth_noise
from dataset.morph.registration import GRID
from dataset.morph.settings import MorphSettings
from dataset.morph.velocity import exponential, identity, jacobian, resize, sample

WEAKENED = 0.8  # factor of a velocity that folds
MOST_PARENTS = 3  # patients besides the one with the tissue


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
) -> tuple[Volume, Bool[np.ndarray, "d h w"]]:
    """The volume of a morph in HU, and the mask of the voxels that the scan of its tissue covered.

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
    low, high = _lung_box(own, displacement, extent)
    spacing = np.prod(own.extent / np.array(own.tissue.shape[1:])) ** (1.0 / 3.0)
    grid = [max(4, round(float(length / spacing))) for length in (high - low) / 2.0 * extent]
    points = _points(low, high, grid)
    fields = sample(torch.cat([displacement, smooth_noise(rng, 1, SMOOTH_CELLS[1])]), points)
    points += fields[:3]
    tissue = sample(own.tissue.float(), points)
    inside = points.abs() <= 1.0
    beside = inside[:2].all(dim=0) | (tissue[0] < GAS_BELOW_HU)  # air continues beside the patient
    scanned = inside[2] & beside & (tissue[3] > SCANNED_SHARE)
    length = (high - low) / 2.0 * extent / np.array(grid)
    hu = changed_hu(tissue[:3], fields[3], settings, rng)
    return Volume(hu.numpy(), tuple(float(s) for s in length)), scanned.numpy()


def _points(low: np.ndarray, high: np.ndarray, size) -> Float[Tensor, "3 d h w"]:
    """Box coordinates of a grid of `size` voxels from `low` to `high` (D, H, W)."""
    middle, half = (
        (torch.from_numpy(v[::-1].copy()).float().view(3, 1, 1, 1)) for v in ((low + high) / 2, (high - low) / 2)
    )
    return middle + half * identity(tuple(size))


def _lung_box(anatomy: Anatomy, displacement: Tensor, extent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Low and high faces of the box around the warped lungs in box coordinates (D, H, W)."""
    faces = lung_faces(sample(anatomy.coarse_lungs, identity(GRID) + resize(displacement, GRID)) > 0.5)
    margins = anatomy.margins * 2.0 / extent
    return faces[0] - margins[0], faces[1] + margins[1]
