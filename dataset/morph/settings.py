"""Strengths of the random changes that turn a few patients into a population."""

from dataclasses import asdict, dataclass

from common.errors import UserError


@dataclass(frozen=True)
class MorphSettings:
    """Strengths of morphs; those without a unit are standard deviations of a logarithm. 0 turns a change off."""

    neighbours: int = 6  # patients to which each patient is registered, the most similar ones
    towards: tuple[float, float] = (-0.3, 1.2)  # range of the share of the way to other patients
    smooth_mm: tuple[float, float] = (8.0, 3.0)  # standard deviation of smooth random displacements, coarse and fine
    affine: float = 0.05  # entries of the matrix logarithm
    size: float = 0.06  # of the whole chest
    organs_mm: float = 6.0  # standard deviation of the displacement of diaphragm, heart and shoulders
    wall: float = 0.2  # thickness of the chest wall
    lung_density: float = 0.25  # of the lungs, in g/ml; half of it varies inside a lung
    bone_density: float = 0.1  # of bone, HU above 200
    contrast: tuple[float, float] = (0.0, 1.3)  # range of the iodine kept, as a share of the patient's own

    def __post_init__(self):
        for name in ("towards", "smooth_mm", "contrast"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name, value in asdict(self).items():
            low = min(value) if isinstance(value, tuple) else value
            if name != "towards" and low < 0 or name == "neighbours" and low < 1:
                raise UserError(f"dataset.morph.{name}={value}: give {1 if name == 'neighbours' else 0} or more")

    def describe(self) -> dict:
        """Plain JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
