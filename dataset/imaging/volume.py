"""A CT volume in HU with its geometry, and the checks of every reader."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from common.errors import UserError
from dataset.imaging.geometry import nifti_affine

SPACING_MM = (0.05, 50.0)  # plausible range
SMALLEST = 4  # voxels along each axis
STRAIGHT = np.array([[0.0, 0.0, -1.0], [0.0, -1.0, 0.0], [1.0, 0.0, 0.0]])  # RAS columns of D, H, W: up, back, left
AIR_BELOW_HU = -900.0  # a volume with all voxels below contains only air
SOFT_BELOW_HU = -150.0  # a volume with all voxels above contains neither air nor lung: its values are not HU
HIGHEST_HU = 70000.0  # above the range of 16 bits
LARGEST_MM = 3000.0  # of a side: no scan of a patient is longer
SHEAR_DEGREES = 0.5  # tolerance of the right angles between the axes
TISSUE_HU, DARK_HU = (-200.0, 200.0), (-1100.0, -700.0)  # of fat, organs and blood; of air and lung
FEW, MANY = 0.02, 0.05  # shares of the voxels
SAMPLED = 1_000_000  # voxels of which the shares are measured
# HU that water has after a wrong rescale
MISSCALED = {
    -1024.0: "the rescale intercept is applied twice; add 1024",
    1024.0: "stored values without their rescale intercept; subtract 1024",
    8192.0: "stored values without their rescale intercept; subtract 8192",
    32768.0: "signed values stored as unsigned ones; subtract 32768",
}


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
    """Raises UserError for NaN, infinity, a constant, air alone, and values that are not HU, with the likely cause.

    `hu` has the values below air too, since they tell a wrong rescale.
    """
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
    if high > HIGHEST_HU:
        raise UserError(f"{path}: no HU in range, {found}; correct its scale (slope and intercept)")
    if cause := _rescale_fault(hu):
        raise UserError(f"{path}: no HU in range, {found}: {cause}, or export it again")


def check_air(hu: np.ndarray, path: str | Path) -> None:
    """Raises UserError for HU without air or lung, which every CT of a chest has."""
    if (low := float(hu.min())) > SOFT_BELOW_HU:
        found = f"values from {low:g} to {float(hu.max()):g}"
        remedy = "export the CT in Hounsfield units"
        raise UserError(f"{path}: no HU in range, {found} contain neither air nor lung; {remedy}")


def _rescale_fault(hu: np.ndarray) -> str:
    """Cause and remedy of values whose tissue and air have the distance of HU at another place; "" for HU."""
    values = hu.ravel()[:: max(1, hu.size // SAMPLED)]

    def share(water: float) -> float:  # of tissue or of air and lung, whichever is rarer
        return min(((values >= water + a) & (values <= water + b)).mean() for a, b in (TISSUE_HU, DARK_HU))

    if share(0.0) >= FEW:
        return ""
    likely = max(MISSCALED, key=share)
    return MISSCALED[likely] if share(likely) > MANY else ""


def check_geometry(volume: Volume, path: str | Path) -> None:
    """Raises UserError for a spacing outside `SPACING_MM`, a wrong number of voxels, and axes that are sheared."""
    if not all(SPACING_MM[0] <= s <= SPACING_MM[1] for s in volume.spacing):
        spacing = ", ".join(f"{s:g}" for s in volume.spacing)
        raise UserError(f"{path}: voxel spacing [{spacing}] mm (D, H, W); correct the header (affine or pixdim)")
    if min(volume.hu.shape) < SMALLEST:
        raise UserError(f"{path}: {list(volume.hu.shape)} voxels are too few for a volume; give the whole CT")
    if max(volume.extent) > LARGEST_MM:
        extent = ", ".join(f"{length:.0f}" for length in volume.extent)
        raise UserError(f"{path}: a scan of [{extent}] mm (D, H, W) by its header; correct its voxel spacing")
    if volume.direction is not None:
        between = np.abs(volume.direction.T @ volume.direction - np.eye(3)).max()
        if (shear := float(np.rad2deg(np.arcsin(min(between, 1.0))))) > SHEAR_DEGREES:
            raise UserError(
                f"{path}: gantry tilt, its axes are sheared by {shear:.1f} degrees; resample it onto straight axes, "
                "or export a reconstruction without tilt"
            )


def reorient(array: Float[np.ndarray, "i j k"], affine: Float[np.ndarray, "4 4"]) -> Volume:
    """The volume of an array with any RAS affine, by flips and transposition without resampling."""
    # here, since metrics of tensors run without nibabel
    from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

    orientation = ornt_transform(io_orientation(affine), axcodes2ornt(tuple("SPL")))
    hu = np.ascontiguousarray(apply_orientation(array, orientation), dtype=np.float32)
    affine = affine @ inv_ornt_aff(orientation, array.shape)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    centre = affine[:3, :3] @ ((np.array(hu.shape) - 1) / 2.0) + affine[:3, 3]
    direction = affine[:3, :3] / spacing
    direction = None if np.allclose(direction, STRAIGHT, atol=1e-6) else direction
    return Volume(hu, tuple(float(s) for s in spacing), tuple(float(c) for c in centre), direction)
