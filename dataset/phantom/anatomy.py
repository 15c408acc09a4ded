"""Random parameters of a phantom, and the surfaces of the chest that follow from them.

Body coordinates `(x, y, z)` in mm as in `dataset.phantom.canvas`; side 0 is right (x < 0), side 1 is left (x > 0).
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from dataset.phantom.canvas import Posture

LABELS: dict[str, int] = {
    "lungs": 1,
    "heart": 2,
    "arteries": 3,  # pulmonary trunk to the lobar arteries
    "vessels": 4,  # the branches inside the lungs
    "bone": 5,
    "clots": 6,
    "airway": 7,
    "aorta": 8,  # with the superior vena cava
    "liver": 9,
    "lesion": 10,  # nodules and masses
    "fluid": 11,  # pleural effusion
}
SIDES = (-1.0, 1.0)  # sign of x on the right and left


@dataclass
class Disease:
    """Findings of one patient; None, 0 or empty where absent."""

    embolism: bool = False
    clots: list = field(default_factory=list)  # (artery, position along it, radius share, half length in mm)
    effusion: list = field(default_factory=lambda: [None, None])  # mm, fluid level above the dome, per side
    wedges: list = field(default_factory=list)  # (side, angle, height share, radius in mm)
    oligaemia: tuple | None = None  # (side, upper or lower lobe)
    nodules: list = field(default_factory=list)  # (side, seeds in the lung 3 x 0..1, radius in mm)
    consolidation: tuple | None = None  # (side, upper or lower lobe, strength)
    raised: list = field(default_factory=lambda: [0.0, 0.0])  # elevation of each dome in mm


class Thorax(NamedTuple):
    """Inner surface of the chest wall at its widest section, and the layers around it, mm."""

    half_width: tuple[float, float]
    half_depth: float
    middle_y: float
    widest_z: float
    muscle: float
    fat: float
    breast: float  # half size, 0 for none


class Lungs(NamedTuple):
    """Lungs and diaphragm: mm, HU."""

    apex: tuple[float, float]
    dome: tuple[float, float]  # top of the diaphragm
    dome_height: tuple[float, float]  # from the top to the recess
    mediastinum: tuple[float, float]  # half width
    hu: tuple[float, float]


class Heart(NamedTuple):
    """Ellipsoid of the heart: half axes and shift in mm, unit vector of the long axis."""

    half_axes: tuple[float, float, float]
    shift: tuple[float, float, float]
    axis: tuple[float, float, float]


class Vessels(NamedTuple):
    """Large vessels and airways: mm, HU."""

    carina: float
    aorta: float
    artery_scale: float
    contrast: tuple[float, float, float]  # added HU: right heart and lungs, left heart and aorta, vena cava
    jitter: np.ndarray  # (8, 3) displacements


class Skeleton(NamedTuple):
    """Spine and ribs, mm."""

    vertebra: float
    scoliosis: tuple[float, float]  # amplitude, phase
    rib_pitch: float
    rib_drop: float


class Anatomy(NamedTuple):
    """Parameters of one patient. Pairs are (right, left)."""

    posture: Posture
    thorax: Thorax
    lungs: Lungs
    heart: Heart
    vessels: Vessels
    skeleton: Skeleton
    stomach_gas: tuple[float, float]  # half width and height in mm
    disease: Disease


def draw_disease(rng: np.random.Generator, pe_share: float, sign_rate: float) -> Disease:
    """Embolism with its radiographic signs, and unrelated findings."""
    disease = Disease(embolism=bool(rng.random() < pe_share))
    signs = rng.random() < sign_rate
    side = int(rng.random() < 0.45)
    # unrelated findings, with and without embolism
    if rng.random() < 0.25:
        for _ in range(rng.integers(1, 3)):
            disease.nodules.append((int(rng.integers(2)), rng.random(3).tolist(), rng.uniform(7.5, 20.0)))
    if rng.random() < 0.16:
        disease.consolidation = (int(rng.integers(2)), int(rng.integers(2)), rng.uniform(0.45, 0.95))
    if rng.random() < 0.16:
        disease.effusion[int(rng.integers(2))] = rng.uniform(-5.0, 55.0)
    if rng.random() < 0.14:
        disease.raised[int(rng.integers(2))] += rng.uniform(15.0, 42.0)
    kinds = rng.permutation(4)[: rng.integers(1, 4)]
    wedge = (side, rng.uniform(-0.9, 1.2), rng.uniform(0.1, 0.5), rng.uniform(18.0, 32.0))
    amounts = rng.random(3).tolist()
    if disease.embolism:
        disease.clots = _draw_clots(rng, side)
    if disease.embolism and signs:
        if 0 in kinds:
            disease.wedges.append(wedge)
        if 1 in kinds and disease.effusion[side] is None:
            disease.effusion[side] = -12.0 + 22.0 * amounts[0]
        if 2 in kinds:
            disease.raised[side] += 10.0 + 15.0 * amounts[1]
        if 3 in kinds:
            disease.oligaemia = (side, int(amounts[2] < 0.5))
    return disease


def _draw_clots(rng: np.random.Generator, side: int) -> list:
    """One to four clots, most of them on `side`; at least one is in a main or lobar artery."""
    clots = []
    if rng.random() < 0.2:
        clots.append(("saddle", 0.5, rng.uniform(0.45, 0.6), rng.uniform(12.0, 20.0)))
    near, far = ("left", "right") if side else ("right", "left")
    names = rng.permutation([near, f"{near}_upper", f"{near}_lower"])[: rng.integers(1, 3)]
    for name in [*names, f"{far}_lower"] if rng.random() < 0.5 else names:
        clots.append((str(name), rng.uniform(0.3, 0.7), rng.uniform(0.55, 0.85), rng.uniform(6.0, 16.0)))
    return clots


def draw_anatomy(rng: np.random.Generator, disease: Disease) -> Anatomy:
    """Random parameters of a patient, independent of the disease except for the elevated domes."""
    u = rng.uniform
    hyper = rng.random() < 0.13  # hyperinflation: long dark lungs, flat domes
    stature = u(0.88, 1.10)
    width = 124.0 * stature * u(0.9, 1.1)
    half_width = tuple(float(np.clip(width * u(0.90, 1.10), 92.0, 148.0)) for _ in SIDES)
    half_depth = float(np.clip(88.0 * stature * u(0.84, 1.14) + 6.0 * hyper, 66.0, 106.0))
    apex_level = 112.0 * stature + u(-12.0, 12.0)
    apex = tuple(apex_level + u(-9.0, 9.0) for _ in SIDES)
    dome_right = -48.0 * stature + u(-26.0, 30.0) - 24.0 * hyper
    dome = (dome_right + disease.raised[0], dome_right - u(-4.0, 26.0) + disease.raised[1])
    dome_height = tuple(u(40.0, 70.0) * (0.6 if hyper else 1.0) for _ in SIDES)
    cardiomegaly = u(1.08, 1.32) if rng.random() < 0.22 else 1.0
    size = min(stature * u(0.86, 1.12) * cardiomegaly, 1.36)  # of the heart
    axis = np.array([0.80, -0.42, -0.46]) + rng.normal(0.0, 0.09, 3)
    fat = float(3.0 + 29.0 * rng.beta(1.3, 1.9))
    lung = u(-860.0, -765.0) - 45.0 * hyper
    # the order of the draws below fixes the population
    posture = Posture(
        shift=(float(np.clip(rng.normal(0, 7.0), -16, 16)), u(-9.0, 9.0), u(-14.0, 14.0)),
        turn=float(np.clip(rng.normal(0, 0.07), -0.16, 0.16)),
        lean=tuple(np.clip(rng.normal(0, 0.035, 2), -0.08, 0.08).tolist()),
    )
    section = (half_width, half_depth, u(-4.0, 6.0), u(-60.0, -25.0))
    muscle = u(15.0, 24.0)
    thorax = Thorax(*section, muscle, fat, u(38.0, 58.0) * (0.8 + 0.012 * fat) if rng.random() < 0.45 else 0.0)
    mediastinum = (u(11.0, 30.0), u(11.0, 26.0))
    carina = apex_level - 76.0 * stature + u(-9.0, 9.0)
    heart = Heart(
        half_axes=(69.0 * size * u(0.93, 1.08), 50.0 * size * u(0.92, 1.08), 47.0 * size * u(0.92, 1.1)),
        shift=(u(16.0, 38.0), u(-8.0, 8.0), u(-4.0, 12.0)),
        axis=tuple((axis / np.linalg.norm(axis)).tolist()),
    )
    aorta, artery_scale = u(11.5, 17.5), u(0.9, 1.22)
    skeleton = Skeleton(
        vertebra=u(15.5, 20.5),
        scoliosis=(float(abs(rng.normal(0, 6.0))), u(0.0, 6.28)),
        rib_pitch=u(23.5, 29.5) * stature,
        rib_drop=u(45.0, 90.0),
    )
    hu = tuple(float(np.clip(lung + u(-25.0, 25.0), -930.0, -740.0)) for _ in SIDES)
    contrast = (u(270.0, 410.0), u(90.0, 240.0), u(300.0, 520.0))
    stomach_gas = (u(14.0, 32.0), u(9.0, 20.0))
    vessels = Vessels(carina, aorta, artery_scale, contrast, jitter=rng.uniform(-4.0, 4.0, (8, 3)))
    lungs = Lungs(apex, dome, dome_height, mediastinum, hu)
    return Anatomy(posture, thorax, lungs, heart, vessels, skeleton, stomach_gas, disease)


def oval(x, y, right, left, depth, squareness: float):
    """Radial distance in mm from an oval with reciprocal half axes in 1/mm; `squareness` 2 is an ellipse."""
    u = np.square(np.abs(x) * (0.5 * (left - right)) + x * (0.5 * (right + left)))
    v = np.square(y * depth)
    level = np.sqrt(np.sqrt(np.square(u + v) + u * v * (squareness - 2.0)))
    radius = np.sqrt(x * x + y * y)
    return radius - radius / np.maximum(level, 1e-3)


class Chest:
    """Distance fields in mm of the surfaces of the chest, at the voxels of a canvas or a list of points."""

    def __init__(self, anatomy: Anatomy):
        self.a = anatomy
        self.top = max(anatomy.lungs.apex) + 10.0  # top of the cage

    def level(self, z):
        """Height above the widest section relative to the top; 0 below the widest section."""
        return np.clip((z - self.a.thorax.widest_z) / (self.top - self.a.thorax.widest_z), 0.0, 1.16)

    def middle(self, z):
        """Anterior-posterior centre of the cage; the upper chest is more posterior."""
        return self.a.thorax.middle_y + 17.0 * self.level(z) ** 2

    def narrowing(self, z):
        """Width of the cage relative to its widest section."""
        below = np.clip((self.a.thorax.widest_z - z) / 90.0, 0.0, 1.3)
        return np.sqrt(np.maximum(1.0 - 0.68 * self.level(z) ** 2, 0.03)) - 0.06 * below**2

    def depth(self, z):
        """Half depth of the cage in mm."""
        return self.a.thorax.half_depth * np.sqrt(np.maximum(1.0 - 0.70 * self.level(z) ** 2, 0.03))

    def cage(self, x, y, z):
        """Distance from the inner surface of the chest wall."""
        narrowing = self.narrowing(z)
        right, left = (1.0 / (w * narrowing) for w in self.a.thorax.half_width)
        return oval(x, y - self.middle(z), right, left, 1.0 / self.depth(z), 1.55)

    def diaphragm(self, x, y, side: int):
        """Height of a dome, which falls off toward the lateral and posterior recess."""
        a = self.a
        x = (x - SIDES[side] * 0.47 * a.thorax.half_width[side]) * (1.0 / (0.62 * a.thorax.half_width[side]))
        y = (y - (a.thorax.middle_y - 12.0)) * (1.0 / (1.02 * a.thorax.half_depth))
        return (np.square(x) + np.square(y)) * -a.lungs.dome_height[side] + a.lungs.dome[side]

    def lung(self, x, y, z, side: int, cage):
        """Distance from one lung; `cage` is the cage field at the same points."""
        a, sign = self.a, SIDES[side]
        base = (self.diaphragm(x, y, side) - z) * 0.75  # distance is less than height on the steep dome
        dx = (x - sign * 0.37 * a.thorax.half_width[side]) * (1.0 / (0.52 * a.thorax.half_width[side]))
        dy = (y - (a.thorax.middle_y + 17.0)) * (1.0 / (0.9 * a.thorax.half_depth))
        apex = (np.square(dx) + np.square(dy)) * (46.0 * 0.72) + (z - a.lungs.apex[side]) * 0.72
        # the lungs are closer to each other anterior to the heart and posterior to the bronchi
        depth = np.square((y - (a.thorax.middle_y + 8.0)) * (1.0 / (0.85 * a.thorax.half_depth)))
        width = np.minimum(depth, 1.0) * -0.72 + 1.0
        medial = width * (a.lungs.mediastinum[side] + 14.0 * self.level(z) ** 2) - x * sign
        return np.maximum(np.maximum(np.maximum(base, cage + 3.0), apex), medial)

    def spine(self, z) -> tuple:
        """Centre `(x, y)` of the vertebral bodies at height z."""
        amplitude, phase = self.a.skeleton.scoliosis
        return amplitude * np.sin(z * 0.021 + phase), self.middle(z) + self.depth(z) - 23.0

    def front(self, z):
        """y of the inner front of the cage in the midline."""
        return self.middle(z) - self.depth(z)
