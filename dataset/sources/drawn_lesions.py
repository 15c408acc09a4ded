"""Lesions drawn into a CT: balls of soft tissue in a lung, fluid at its base, and an airless half of it."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.ndimage import distance_transform_edt

from common.errors import UserError
from dataset.imaging.coverage import fill
from dataset.imaging.forward_model import noise_stream
from dataset.imaging.lung_segmentation import segment_lungs
from dataset.imaging.volume import Volume
from dataset.phantom.lesions import EFFUSION, HALF, HEALTHY, LOBE_STRENGTH, NODULES_MM

SCAN_LESIONS = (*NODULES_MM, EFFUSION, HALF)
DRAWING_VERSION = 2  # raise it when the same CT and place give another lesion
NODULE_HU, FLUID_HU, AIRLESS_HU = 32.0, 14.0, 20.0  # as in phantoms
FLUID_SHARE = 0.3  # of the height of a lung, from its base
GRID_MM = 3.0  # largest distance of the voxels among which the centres of nodules are drawn
SIDES = 2  # halves of the box of the lungs along W
PLACES = {EFFUSION: SIDES, HALF: 2 * SIDES}  # where it can be; a nodule can be anywhere in the lungs


@dataclass(frozen=True)
class LesionDrawing:
    """What drawing into one CT needs.

    Attributes:
        hu: of the CT, marked where it was not scanned.
        lungs: its lungs, where it was scanned.
        centres: voxels whose distance from the border of a lung is at least the radius of the largest nodule, or the
            deepest ones.
        name: of the CT; with the number of a place it determines the place.
    """

    hu: Float[np.ndarray, "d h w"]
    spacing: tuple[float, float, float]
    lungs: Bool[np.ndarray, "d h w"]
    centres: Int[np.ndarray, "n 3"]
    name: str

    @classmethod
    def of(cls, volume: Volume, name: str) -> "LesionDrawing":
        """UserError for a CT in which no lungs are found."""
        filled, scanned = fill(volume.hu)
        lungs = segment_lungs(filled, volume.spacing) & scanned
        if not lungs.any():
            raise UserError(f"{name}: no lungs found, so no lesion can be added; leave it out of the test cases")
        steps = [max(1, int(GRID_MM / s)) for s in volume.spacing]
        part = tuple(slice(step // 2, None, step) for step in steps)
        spacing = [s * step for s, step in zip(volume.spacing, steps, strict=True)]
        depth = distance_transform_edt(np.pad(lungs[part], 1), spacing)[1:-1, 1:-1, 1:-1]
        deep = np.argwhere(depth >= min(max(NODULES_MM.values()) / 2, depth.max()))
        return cls(volume.hu, volume.spacing, lungs, deep * steps + [p.start for p in part], name)

    def draw(self, lesion: str, place: int) -> Float[np.ndarray, "d h w"]:
        """HU with a lesion, of which `place` is below its `PLACES`; nodules of a place have the same centre."""
        if lesion == HEALTHY:
            return self.hu.copy()
        if lesion in PLACES:
            return self.places(lesion)[place]
        rng = np.random.default_rng((*noise_stream(self.name), place))
        return self._nodule(self.centres[rng.integers(len(self.centres))], NODULES_MM[lesion] / 2)

    def places(self, lesion: str) -> list[Float[np.ndarray, "d h w"]]:
        """HU with an effusion on each side, or with each half of each lung airless."""
        if lesion == EFFUSION:
            return [self._fluid(side) for side in range(SIDES)]
        return [self._airless(side, upper) for side in range(SIDES) for upper in (False, True)]

    def _nodule(self, centre: Int[np.ndarray, "3"], radius: float) -> np.ndarray:
        """A ball of one density, its edge over the size of a voxel."""
        axes = [(np.arange(n) - c) * s for n, c, s in zip(self.hu.shape, centre, self.spacing, strict=True)]
        distance = np.sqrt(sum(a**2 for a in np.meshgrid(*axes, indexing="ij", sparse=True)))
        share = np.clip((radius - distance) / max(self.spacing) + 0.5, 0.0, 1.0)
        return self._towards(NODULE_HU, (share * self.lungs).astype(np.float32))

    def _fluid(self, side: int) -> np.ndarray:
        lung, low, height = self._lung(side)
        lung[low + round(FLUID_SHARE * height) :] = False
        return self._towards(FLUID_HU, lung)

    def _airless(self, side: int, upper: bool) -> np.ndarray:
        lung, low, height = self._lung(side)
        lung[: low + height // 2] &= not upper
        lung[low + height // 2 :] &= upper
        return self._towards(AIRLESS_HU, lung * np.float32(LOBE_STRENGTH))

    def _lung(self, side: int) -> tuple[np.ndarray, int, int]:
        """The mask of the lungs on one side of the middle of their box, its lowest slice and its height in slices."""
        columns = np.flatnonzero(self.lungs.any(axis=(0, 1)))
        middle = (columns[0] + columns[-1] + 1) // 2
        lung = self.lungs.copy()
        lung[..., slice(middle, None) if side == 0 else slice(0, middle)] = False
        slices = np.flatnonzero(lung.any(axis=(1, 2)))
        return lung, (slices[0] if len(slices) else 0), (slices[-1] + 1 - slices[0] if len(slices) else 0)

    def _towards(self, hu: float, share: np.ndarray) -> np.ndarray:
        return self.hu + share * (np.float32(hu) - self.hu)
