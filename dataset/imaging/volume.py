"""A CT volume in HU with its geometry, and the checks of every reader."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

from common.errors import UserError
from dataset.imaging.geometry import nifti_affine

SPACING_MM = (0.05, 50.0)  # plausible range
SMALLEST = 4  # voxels along each axis
STRAIGHT = np.array([[0.0, 0.0, -1.0], [0.0, -1.0, 0.0], [1.0, 0.0, 0.0]])  # RAS columns of D, H, W: up, back, left
AIR_BELOW_HU = -900.0  # a volume with all voxels below contains only air
SOFT_BELOW_HU = -150.0  # a volume with all voxels above contains neither air nor lung: its values are not HU


@dataclass
class Volume:
    """A CT volume."""

    hu: Float[np.ndarray, "d h w"]  # HU, float32
    spacing: tuple[float, float, float]  # mm (D, H, W)
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)  # of the volume in RAS mm
    # unit vectors (RAS, columns) along the axes D, H, W of an oblique volume; None if axis-aligned
    direction: Float[np.ndarray, "3 3"] | None = None

    @property
    def extent(self) -> tuple[float, float, float]:
        """Edge-to-edge size in mm `(D, H, W)`."""
        return tuple(n * s for n, s in zip(self.hu.shape, self.spacing, strict=True))

    @property
    def affine(self) -> Float[np.ndarray, "4 4"]:
        """RAS affine of the NIfTI axes `(W, H, D)`."""
        if self.direction is None:
            return nifti_affine(self.spacing, self.centre, self.hu.shape)
        affine = np.eye(4)
        affine[:3, :3] = (np.asarray(self.direction) * np.asarray(self.spacing))[:, ::-1]
        affine[:3, 3] = self.centre - affine[:3, :3] @ ((np.array(self.hu.shape[::-1]) - 1) / 2.0)
        return affine


def check_hu(hu: np.ndarray, path: str | Path) -> None:
    """Raises UserError for NaN, infinity, a constant, air alone, 8-bit grey values, and values without air or lung."""
    if not np.isfinite(hu).all():
        share = 100.0 * (1.0 - np.isfinite(hu).mean())
        raise UserError(f"{path}: {share:.2g} % of the voxels are NaN or infinite; replace them by -1024 HU (air)")
    low, high = float(hu.min()), float(hu.max())
    found = f"values from {low:g} to {high:g}"
    if low == high:
        raise UserError(f"{path}: every voxel is {low:g}; it holds no image, export it again")
    if high < AIR_BELOW_HU:
        raise UserError(f"{path}: no HU in range, {found} are all air; export it with its rescale slope and intercept")
    if low >= 0 and high <= 255:
        raise UserError(f"{path}: no HU in range, {found} look like 8-bit grey; export the CT in Hounsfield units")
    if low > SOFT_BELOW_HU:
        hint = (
            "subtract 1024 if the rescale intercept is missing" if high > 1500 else "export the CT in Hounsfield units"
        )
        raise UserError(f"{path}: no HU in range, {found} contain neither air nor lung; {hint}")


def check_geometry(volume: Volume, path: str | Path) -> None:
    """Raises UserError for a spacing outside `SPACING_MM` and for fewer than 4 voxels along an axis."""
    if not all(SPACING_MM[0] <= s <= SPACING_MM[1] for s in volume.spacing):
        spacing = ", ".join(f"{s:g}" for s in volume.spacing)
        raise UserError(f"{path}: voxel spacing [{spacing}] mm (D, H, W); correct the header (affine or pixdim)")
    if min(volume.hu.shape) < SMALLEST:
        raise UserError(f"{path}: {list(volume.hu.shape)} voxels are too few for a volume; give the whole CT")


def reorient(array: Float[np.ndarray, "i j k"], affine: Float[np.ndarray, "4 4"]) -> Volume:
    """The volume of an array with any RAS affine, by flips and transposition without resampling."""
    orientation = ornt_transform(io_orientation(affine), axcodes2ornt(tuple("SPL")))
    hu = np.ascontiguousarray(apply_orientation(array, orientation), dtype=np.float32)
    affine = affine @ inv_ornt_aff(orientation, array.shape)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    centre = affine[:3, :3] @ ((np.array(hu.shape) - 1) / 2.0) + affine[:3, 3]
    direction = affine[:3, :3] / spacing
    direction = None if np.allclose(direction, STRAIGHT, atol=1e-6) else direction
    return Volume(hu, tuple(float(s) for s in spacing), tuple(float(c) for c in centre), direction)
