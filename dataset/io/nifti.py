"""Reader and writer of NIfTI volumes in HU."""

import logging
import re
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np

from common.errors import UserError
from common.file_limits import MAX_OFFSET, expect_voxels
from common.files import atomic_path
from dataset.imaging.volume import Volume, check_geometry, check_hu, reorient

NIFTI_ENDINGS = (".nii.gz", ".nii")
SYNTHETIC = "SYNTHETIC - not for diagnosis"
# nibabel's errors for damaged files
NIFTI_ERRORS = (EOFError, zlib.error, OSError, ValueError, TypeError, KeyError, IndexError, OverflowError, MemoryError,
            np.linalg.LinAlgError, nib.filebasedimages.ImageFileError)  # fmt: skip

log = logging.getLogger(__name__)


def write_nifti(
    path: str | Path, hu, spacing, centre=(0.0, 0.0, 0.0), description: str = SYNTHETIC, direction=None
) -> None:
    """Writes HU `(D, H, W)` as an int16 NIfTI with its affine, atomically; `direction` as in `Volume`.

    The header holds `description` (79 characters). The default marks a generated volume; a real CT needs another text,
    such as "original CT". Raises ValueError for another shape and UserError for NaN, which int16 cannot hold.
    """
    hu, path = np.asarray(hu), Path(path)
    if hu.ndim != 3:
        raise ValueError(f"{path}: a volume has the shape (D, H, W), found {hu.shape}")
    if missing := int(np.isnan(hu).sum()):
        raise UserError(f"{path}: {missing} voxels are NaN and cannot be written as HU; check what produced them")
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
    """The name of a volume file or series folder without its suffix."""
    return re.sub(r"\.nii(\.gz)?$", "", Path(str(path).partition("#")[0]).name, flags=re.IGNORECASE)


def read_nifti(path: Path) -> Volume:
    """The volume of a NIfTI file; UserError if it is damaged, not 3-dimensional, or has an invalid affine or HU."""
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
        expect_data_offset(image, path)
        lengths = np.linalg.norm(image.affine[:3, :3], axis=0)
        if (lengths <= 0).any():
            raise UserError(f"{path}: the affine has an axis of length 0; correct the header (sform or qform)")
        if np.isnan(nib.orientations.io_orientation(image.affine)).any():
            raise UserError(f"{path}: two axes of the affine are parallel; correct the header (sform or qform)")
        if image.header["sform_code"] == 0 and image.header["qform_code"] == 0:
            log.warning("%s: no orientation in the header (sform and qform codes are 0), sides may be exchanged", path)
        hu = image.get_fdata(dtype=np.float32, caching="unchanged")
    except NIFTI_ERRORS as error:
        raise UserError(f"{path}: damaged or not NIfTI ({error}); copy or export it again") from error
    volume = reorient(hu, image.affine)
    check_geometry(volume, path)
    check_hu(volume.hu, path)
    return volume


def expect_data_offset(image: nib.Nifti1Image, path: str | Path) -> None:
    """Raises UserError for a data offset that is negative or above `MAX_OFFSET`."""
    if not 0 <= int(image.dataobj.offset) <= MAX_OFFSET:
        raise UserError(f"{path}: damaged, its voxels would start at byte {image.dataobj.offset:.3g}; copy it again")


def _raw_zooms(path: Path, kind: type[nib.Nifti1Image]) -> list[float]:
    """`pixdim` as stored: nibabel replaces zero by 1 mm on loading."""
    with nib.openers.ImageOpener(path) as file:
        return [abs(float(zoom)) for zoom in kind.header_class.from_fileobj(file, check=False)["pixdim"][1:4]]
