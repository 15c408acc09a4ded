"""CT volumes in and out: NIfTI and DICOM to HU arrays `(D, H, W)` in one orientation, and back to NIfTI.

`D` runs inferior to superior, `H` anterior to posterior, `W` patient right to left. An oblique volume is turned by the
nearest of the 24 axis-aligned rotations and flips, never resampled: up to 45 degrees of tilt stay in the array and in
`Volume.direction`; who works without that takes the tilt for straight, the spacing stays that of the voxels.
"""

import logging
import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from jaxtyping import Float

from dataset.errors import UserError
from dataset.files import atomic_path
from dataset.geometry import nifti_affine
from dataset.limits import MOST_OFFSET, expect_voxels

NIFTI_ENDINGS = (".nii.gz", ".nii")
SYNTHETIC = "SYNTHETIC - not for diagnosis"
SPACING_MM = (0.05, 50.0)  # outside of this a header is wrong
SMALLEST = 4  # voxels along each axis
STRAIGHT = np.array([[0.0, 0.0, -1.0], [0.0, -1.0, 0.0], [1.0, 0.0, 0.0]])  # RAS columns of D, H, W: up, back, left
AIR_BELOW_HU = -900.0  # a volume without anything above it holds nothing
SOFT_BELOW_HU = -150.0  # a chest without anything below it has no air and no lung: the numbers are not HU

# What nibabel raises on damaged files, each for another place in the file.
NO_NIFTI = (EOFError, zlib.error, OSError, ValueError, TypeError, KeyError, IndexError, OverflowError, MemoryError,
            np.linalg.LinAlgError, nib.filebasedimages.ImageFileError)  # fmt: skip

log = logging.getLogger(__name__)


@dataclass
class Volume:
    """A CT volume.

    Attributes:
        hu: HU `(D, H, W)`, float32.
        spacing: mm `(D, H, W)`.
        centre: where the centre of the volume lies, RAS mm `(right-left, posterior-anterior, inferior-superior)`.
        direction: of an oblique volume the unit vectors (RAS, columns) along its axes D, H, W; None if it is straight.
    """

    hu: Float[np.ndarray, "d h w"]
    spacing: tuple[float, float, float]
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: Float[np.ndarray, "3 3"] | None = None

    @property
    def extent(self) -> tuple[float, float, float]:
        """Edge-to-edge size in mm `(D, H, W)`."""
        return tuple(n * s for n, s in zip(self.hu.shape, self.spacing, strict=True))

    @property
    def affine(self) -> Float[np.ndarray, "4 4"]:
        """RAS affine of the axes `(W, H, D)`, the order in which a NIfTI file holds them."""
        if self.direction is None:
            return nifti_affine(self.spacing, self.centre, self.hu.shape)
        affine = np.eye(4)
        affine[:3, :3] = (np.asarray(self.direction) * np.asarray(self.spacing))[:, ::-1]
        affine[:3, 3] = self.centre - affine[:3, :3] @ ((np.array(self.hu.shape[::-1]) - 1) / 2.0)
        return affine


def read_volume(path: str | Path) -> Volume:
    """A CT volume from a NIfTI file, a folder with a DICOM series, or one of several series as `folder#SeriesUID`.

    Raises:
        UserError: if there is no such file, it is damaged, not 3-dimensional, has NaN or a spacing that cannot be,
            or holds no HU. The line names the file, what was found and what to do.
    """
    text = str(path)
    folder, _, series = text.partition("#")
    if Path(text).is_file():
        volume = _read_nifti(Path(text))
    elif Path(folder).is_dir():
        volume = _read_dicom(Path(folder), series)
    else:
        raise UserError(f"{path}: no such file or folder; a CT is a .nii, a .nii.gz or a folder with a DICOM series")
    check_geometry(volume, path)
    check_hu(volume.hu, path)
    return volume


def write_nifti(
    path: str | Path, hu, spacing, centre=(0.0, 0.0, 0.0), description: str = SYNTHETIC, direction=None
) -> None:
    """Write HU `(D, H, W)` as int16 NIfTI with its affine, atomically; `direction` as in `Volume`.

    `description` goes into the header (79 characters). The default marks what a model made; give your own text, such
    as "original CT", for what a scanner made.

    Raises:
        ValueError: another shape.
        UserError: NaN, which has no int16.
    """
    hu, path = np.asarray(hu), Path(path)
    if hu.ndim != 3:
        raise ValueError(f"{path}: a volume has the shape (D, H, W), found {hu.shape}")
    if missing := int(np.isnan(hu).sum()):
        raise UserError(f"{path}: {missing} voxels are NaN and cannot be written as HU; look at what made them")
    stored = np.rint(np.clip(hu, -32768, 32767)).astype(np.int16).transpose(2, 1, 0)
    image = nib.Nifti1Image(stored, Volume(hu, spacing, centre, direction).affine)
    image.header.set_xyzt_units("mm")
    image.header.set_slope_inter(1.0, 0.0)
    image.header["descrip"] = description[:79].encode("ascii", "replace")
    image.set_qform(image.affine, code="scanner")
    image.set_sform(image.affine, code="scanner")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        nib.save(image, temporary)


def volume_name(path: str | Path) -> str:
    """The name of a volume file or series folder without its endings."""
    name = Path(str(path).partition("#")[0]).name
    for ending in NIFTI_ENDINGS:
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name


def check_hu(hu: np.ndarray, path: str | Path) -> None:
    """Refuse numbers that cannot be the HU of a chest.

    Raises:
        UserError: for NaN or infinity, a constant, nothing above air, grey values, or nothing as dark as air or lung.
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
    if low > SOFT_BELOW_HU:
        hint = (
            "subtract 1024 if the rescale intercept was lost" if high > 1500 else "export the CT in Hounsfield units"
        )
        raise UserError(f"{path}: no HU in range, {found} hold neither air nor lung; {hint}")


def check_geometry(volume: Volume, path: str | Path) -> None:
    """Refuse a spacing that cannot be one in mm, and fewer than 4 voxels along an axis.

    Raises:
        UserError: naming `path` and what was found.
    """
    if not all(SPACING_MM[0] <= s <= SPACING_MM[1] for s in volume.spacing):
        spacing = ", ".join(f"{s:g}" for s in volume.spacing)
        raise UserError(f"{path}: voxel spacing [{spacing}] mm (D, H, W); correct the header (affine or pixdim)")
    if min(volume.hu.shape) < SMALLEST:
        raise UserError(f"{path}: {list(volume.hu.shape)} voxels are too few for a volume; give the whole CT")


def _read_nifti(path: Path) -> Volume:
    try:
        image = nib.load(path)
        shape = image.shape
        if len(shape) != 3:
            remedy = "join its slices into one volume" if len(shape) < 3 else "save one 3-dimensional volume of it"
            raise UserError(f"{path}: {len(shape)} dimensions {list(shape)} where a CT has 3; {remedy}")
        zooms = _raw_zooms(path, type(image))
        if not np.isfinite(image.affine).all() or not all(zoom > 0 for zoom in zooms):
            shown = ", ".join(f"{zoom:g}" for zoom in zooms)
            raise UserError(f"{path}: voxel spacing [{shown}] mm in the header; correct it (affine and pixdim)")
        expect_voxels(shape, path)
        expect_near_voxels(image, path)
        lengths = np.linalg.norm(image.affine[:3, :3], axis=0)
        if (lengths <= 0).any():
            raise UserError(f"{path}: the affine has an axis of length 0; correct the header (sform or qform)")
        if np.isnan(nib.orientations.io_orientation(image.affine)).any():
            raise UserError(f"{path}: two axes of the affine are one; correct the header (sform or qform)")
        if image.header["sform_code"] == 0 and image.header["qform_code"] == 0:
            log.warning(
                "%s: no orientation in the header (sform and qform codes are 0); left and right may be wrong", path
            )
        # float32 straight from the stored integers: slope and intercept are applied per voxel, once
        hu = image.get_fdata(dtype=np.float32, caching="unchanged")
    except NO_NIFTI as error:
        raise UserError(f"{path}: damaged or not NIfTI ({error}); copy or export it again") from error
    return turned(hu, image.affine)


def expect_near_voxels(image: nib.Nifti1Image, path: str | Path) -> None:
    """Raises UserError where the header puts the voxels so far into the file that reading never ends."""
    if not 0 <= int(image.dataobj.offset) <= MOST_OFFSET:
        raise UserError(f"{path}: damaged, its voxels would start at byte {image.dataobj.offset:.3g}; copy it again")


def _raw_zooms(path: Path, kind: type[nib.Nifti1Image]) -> list[float]:
    """`pixdim` as it stands in the file: nibabel turns a zero into 1 mm when it loads."""
    with nib.openers.ImageOpener(path) as file:
        return [abs(float(zoom)) for zoom in kind.header_class.from_fileobj(file, check=False)["pixdim"][1:4]]


def turned(array: Float[np.ndarray, "i j k"], affine: Float[np.ndarray, "4 4"]) -> Volume:
    """The volume of an array in any axis order with its RAS affine: flipped and transposed, never resampled."""
    orientations = nib.orientations
    turn = orientations.ornt_transform(orientations.io_orientation(affine), orientations.axcodes2ornt(tuple("SPL")))
    hu = np.ascontiguousarray(orientations.apply_orientation(array, turn), dtype=np.float32)
    affine = affine @ orientations.inv_ornt_aff(turn, array.shape)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    centre = affine[:3, :3] @ ((np.array(hu.shape) - 1) / 2.0) + affine[:3, 3]
    direction = affine[:3, :3] / spacing
    straight = np.allclose(direction, STRAIGHT, atol=1e-6)
    return Volume(
        hu, tuple(float(s) for s in spacing), tuple(float(c) for c in centre), None if straight else direction
    )


def _read_dicom(folder: Path, series: str) -> Volume:
    from dataset.preparation.reading import read_series
    from dataset.preparation.series import find_ct_series

    found = find_ct_series(folder, recursive=False)
    if not found:
        raise UserError(f"{folder}: no DICOM series of a CT in this folder; give the folder that holds the slices")
    found = [one for one in found if not one.dropped or one.series_uid == series] or found  # localisers
    names = list(dict.fromkeys(one.series_uid for one in found))
    if series and series not in names:
        raise UserError(f"{folder}: no series {series}; found {', '.join(names)}")
    if not series and len(names) > 1:
        raise UserError(f"{folder}: {len(names)} DICOM series; name one as {folder}#{names[0]}")
    same = [one for one in found if one.series_uid == (series or names[0])]
    if len(same) > 1:
        raise UserError(f"{folder}: {len(same)} acquisitions in one DICOM series; dataset/prepare.py tells them apart")
    if same[0].dropped:
        raise UserError(f"{folder}: no DICOM series of a CT volume ({same[0].dropped}); give the folder of the CT")
    return read_series(same[0], folder)
