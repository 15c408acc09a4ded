"""Reader and writer of NIfTI volumes in HU."""

import contextlib
import logging
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import nibabel as nib
import numpy as np
from isal import igzip, isal_zlib

from common.errors import UserError, quiet
from common.file_limits import MAX_OFFSET, expect_voxels
from common.files import atomic_path
from dataset.imaging.volume import Volume, check_geometry, check_hu, reorient

NIFTI_ENDINGS = (".nii.gz", ".nii")
SYNTHETIC = "SYNTHETIC - not for diagnosis"
# nibabel's errors for damaged files
NIFTI_ERRORS = (EOFError, zlib.error, isal_zlib.error, OSError, ValueError, TypeError, KeyError, IndexError,
            OverflowError, MemoryError, np.linalg.LinAlgError, nib.filebasedimages.ImageFileError,
            nib.spatialimages.HeaderDataError, nib.spatialimages.HeaderTypeError, nib.spatialimages.ImageDataError,
            nib.wrapstruct.WrapStructError)  # fmt: skip
NIFTI_2 = (b"\x1c\x02\0\0", b"\0\0\x02\x1c")  # sizeof_hdr = 540
PACKING = 2  # level of compression: the bytes of zlib's level 1 in a fifth of its time
SLACK = 4096  # zero bytes that may follow the voxels
SAME_SPACING = 0.01  # largest relative difference of the spacings of pixdim and affine
UNIT_MM = {"meter": 1000.0, "micron": 0.001}  # other units are mm

log = logging.getLogger(__name__)


def nifti_image(hu, spacing, centre=(0.0, 0.0, 0.0), description: str = SYNTHETIC, direction=None) -> nib.Nifti1Image:
    """HU `(D, H, W)` as an int16 NIfTI image with its affine; `direction` as in `Volume`.

    The header holds `description` (79 characters). The default marks a generated volume; a real CT needs another text,
    such as "original CT". Raises ValueError for another shape and UserError for NaN, which int16 cannot hold.
    """
    hu = np.asarray(hu)
    if hu.ndim != 3:
        raise ValueError(f"a volume has the shape (D, H, W), found {hu.shape}")
    if missing := int(np.isnan(hu).sum()):
        raise UserError(f"{missing} voxels are NaN and cannot be written as HU; check what produced them")
    stored = np.rint(np.clip(hu, -32768, 32767)).astype(np.int16).transpose(2, 1, 0)
    image = nib.Nifti1Image(stored, Volume(hu, spacing, centre, direction).affine)
    image.header.set_xyzt_units("mm")
    image.header.set_slope_inter(1.0, 0.0)
    image.header["descrip"] = description[:79].encode("ascii", "replace")
    image.set_qform(image.affine, code="scanner")
    image.set_sform(image.affine, code="scanner")
    return image


def write_nifti(path: str | Path, hu, spacing, *args, **options) -> None:
    """Writes `nifti_image` atomically, packed if the path ends in .gz, raising as it does."""
    path = Path(path)
    try:
        image = nifti_image(hu, spacing, *args, **options)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    content = image.to_bytes()
    with atomic_path(path) as temporary:
        temporary.write_bytes(igzip.compress(content, PACKING, mtime=0) if path.suffix == ".gz" else content)


@contextlib.contextmanager
def open_nifti(path: str | Path) -> Iterator[nib.Nifti1Image]:
    """The NIfTI image of a file, packed or not by its content, not by its ending; read its voxels within the block.

    UserError for any error of nibabel in the block, and for a file that is longer than its header describes.
    """
    try:
        with quiet("nibabel.global"), _unpacked(path) as file:
            image = _kind(file).from_stream(file)
            _check_header(image, path)
            yield image
            file.seek(image.dataobj.offset + math.prod(image.shape) * image.get_data_dtype().itemsize)
            rest = file.read(SLACK + 1)
            if len(rest) > SLACK or rest.strip(b"\0"):
                kind, shown = image.get_data_dtype(), "x".join(str(n) for n in image.shape)
                raise UserError(
                    f"{path}: the file is longer than its header describes ({shown} voxels of {kind} "
                    f"from byte {image.dataobj.offset}); correct dim, datatype or vox_offset, or export it again"
                )
    except NIFTI_ERRORS as error:
        raise UserError(f"{path}: damaged or not NIfTI ({error}); copy or export it again") from error


def read_nifti(path: Path) -> Volume:
    """The volume of a NIfTI file; UserError if it is damaged, not 3-dimensional, or has an invalid affine or HU."""
    with open_nifti(path) as image:
        shape = list(image.shape)
        while len(shape) > 3 and shape[-1] == 1:
            shape.pop()
        if len(shape) != 3:
            remedy = "join its slices into one volume" if len(shape) < 3 else "save one 3-dimensional volume of it"
            raise UserError(f"{path}: {len(shape)} dimensions {shape} where a CT has 3; {remedy}")
        expect_voxels(shape, path)
        affine = _affine(image, path)
        if image.header["sform_code"] == 0 and image.header["qform_code"] == 0:
            log.warning("%s: no orientation in the header (sform and qform codes are 0), sides may be exchanged", path)
        hu = image.get_fdata(dtype=np.float32, caching="unchanged").reshape(shape)
    volume = reorient(hu, affine)
    check_geometry(volume, path)
    check_hu(volume.hu, path)
    return volume


def is_packed(path: str | Path) -> bool:
    """Whether a file is compressed by gzip."""
    with open(path, "rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _unpacked(path: str | Path) -> BinaryIO:
    return igzip.open(path) if is_packed(path) else open(path, "rb")


def _kind(file: BinaryIO) -> type[nib.Nifti1Image]:
    kind = nib.Nifti2Image if file.read(4) in NIFTI_2 else nib.Nifti1Image
    file.seek(0)
    return kind


def _check_header(image: nib.Nifti1Image, path: str | Path) -> None:
    """Raises UserError for a data offset or a scale that cannot be true."""
    if not 0 <= int(image.dataobj.offset) <= MAX_OFFSET:
        raise UserError(f"{path}: damaged, its voxels would start at byte {image.dataobj.offset:.3g}; copy it again")
    slope = float(image.dataobj.slope)
    if slope < 0:
        raise UserError(
            f"{path}: scl_slope {slope:g} in the header would invert the HU; correct it or export it again"
        )


def _affine(image: nib.Nifti1Image, path: Path) -> np.ndarray:
    """The affine in mm; UserError where it is no affine of a volume or contradicts the voxel spacing of the header."""
    with _unpacked(path) as file:  # as stored: nibabel replaces zero by 1 mm
        zooms = np.abs(_kind(file).header_class.from_fileobj(file, check=False)["pixdim"][1:4])
    if not np.isfinite(image.affine).all() or not (zooms > 0).all():
        shown = ", ".join(f"{zoom:g}" for zoom in zooms)
        raise UserError(f"{path}: voxel spacing [{shown}] mm in the header; correct it (affine and pixdim)")
    lengths = np.linalg.norm(image.affine[:3, :3], axis=0)
    if (lengths <= 0).any():
        raise UserError(f"{path}: the affine has an axis of length 0; correct the header (sform or qform)")
    if np.isnan(nib.orientations.io_orientation(image.affine)).any():
        raise UserError(f"{path}: two axes of the affine are parallel; correct the header (sform or qform)")
    if not np.allclose(lengths, zooms, rtol=SAME_SPACING, atol=0):
        shown = [", ".join(f"{v:.4g}" for v in values) for values in (zooms, lengths)]
        raise UserError(
            f"{path}: two voxel spacings in the header, [{shown[0]}] mm (pixdim) and [{shown[1]}] mm (affine); "
            "correct the wrong one"
        )
    unit = UNIT_MM.get(image.header.get_xyzt_units()[0], 1.0)
    return np.diag([unit, unit, unit, 1.0]) @ image.affine
