"""CT volumes in one file that is neither DICOM nor NIfTI: MetaImage, NRRD, and arrays in `.npz` and `.h5`.

SimpleITK reads `.mha`, `.mhd` and `.nrrd`, with spacing, origin and direction in DICOM's patient axes (LPS).

RAD-ChestCT (Draelos et al., 2021, doi:10.1016/j.media.2020.101857) stores the array `ct` of an `.npz`: HU from -1000
to 1000, slices from superior to inferior, rows to posterior, columns to the patient's left, resampled to 0.8 mm.

X2CT-GAN (Ying et al., CVPR 2019, arXiv:1905.06902) stores `ct`, `xray1` (frontal), `xray2` (lateral), `ori_size` and
`spacing` in `ct_xray_data.h5`: HU + 1024 in the same array order, over `ori_size · spacing` mm along each axis.
"""

import logging
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from common.errors import UserError
from common.file_limits import expect_pixels, expect_voxels, is_inside
from dataset.imaging.volume import Volume, check_geometry, check_hu, reorient
from dataset.io.file_kind import kind_of
from dataset.io.nifti import NIFTI_ENDINGS, read_nifti

VOLUME_ENDINGS = (*NIFTI_ENDINGS, ".mha", ".mhd", ".nrrd", ".npz", ".h5")
X2CT_OFFSET = 1024.0  # stored value of water
X2CT_XRAYS = ("xray1", "xray2")  # frontal, lateral
# DRRs of X2CT-GAN (its CT2XRAY/xraypro.py): a detector of 500 mm at 949 mm from the source, the centre of the volume
# at 541 mm; PA, and lateral from the patient's left with anterior at column 0
X2CT_POSES = {"xray1": (949.0, 541.0, 0.0, 0.0, 0.0, 0.0, 0.0, 500.0, 500.0),
              "xray2": (949.0, 541.0, -90.0, 0.0, 0.0, 0.0, 0.0, 500.0, -500.0)}  # fmt: skip
RAD_SPACING_MM = 0.8
DOWNWARD = np.array(
    [[0.0, 0, -1], [0, -1, 0], [-1, 0, 0]]
)  # RAS columns of slices downward, rows backward, columns left
ITK_HEADER = {"metaimage": 1 << 16, "nrrd": 1 << 20}  # bytes
# Lines that leave SimpleITK one way to read them: a field, and of NRRD also its magic, a comment or a `key:=value`.
# MetaIO ends a name at the first `=` or `:`, skips all of them before the value, and cuts letters beyond ASCII off its
# end.
META_LINE = re.compile(r"(?P<name>[^\s=:\x1b\ufffd][^=:\x1b]*)(?P<sign>=|:(?=.*=))[=: \t]*(?P<value>.*)", re.ASCII)
NRRD_LINE = re.compile(r"(?P<name>[A-Za-z][A-Za-z ]*)(?P<sign>): (?P<value>.*)|NRRD\d+|#.*|.+?:=.*", re.ASCII)
CONTROL = re.compile(r"[\x00-\x08\x0a-\x1a\x1c-\x1f\x7f]")  # all but the tab and the escape of ISO 2022 text
META_FIELDS = frozenset(
    "ObjectType ObjectSubType TransformType NDims ID ParentID AcquisitionDate BinaryData BinaryDataByteOrderMSB "
    "ElementByteOrderMSB CompressedData CompressedDataSize CompressionLevel Color Position Origin Offset Orientation "
    "Rotation TransformMatrix CenterOfRotation DistanceUnits AnatomicalOrientation ElementSpacing DimSize HeaderSize "
    "Modality ImagePosition SequenceID ElementMin ElementMax ElementNumberOfChannels ElementSize ElementNBits "
    "ElementToIntensityFunctionSlope ElementToIntensityFunctionOffset ElementType ElementDataFile".lower().split()
)
NRRD_TEXT = "content"  # the field of NRRD that describes no voxels
META_DATA = "ElementDataFile"  # the last field of a MetaImage header
LOCAL = ("LOCAL", "Local", "local")  # values of it where the voxels follow the header
ARRAY_ERRORS = (OSError, ValueError, TypeError, KeyError, EOFError, IndexError, RuntimeError, OverflowError,
                MemoryError, zlib.error, zipfile.BadZipFile, NotImplementedError)  # fmt: skip

log = logging.getLogger(__name__)


def is_volume_file(path: str | Path) -> bool:
    """Whether a file is a CT of one of `READERS` by its content, or NIfTI by its ending if its content is unknown."""
    kind = kind_of(path) or ("nifti" if str(path).lower().endswith(NIFTI_ENDINGS) else "")
    return kind in READERS and (kind != "h5" or _has_ct(path))


def read_file(path: str | Path) -> Volume:
    """The volume of one file; UserError if it is damaged, not 3-dimensional, or has an invalid geometry or HU."""
    return READERS.get(kind_of(path), read_nifti)(Path(path))


def data_files(path: Path) -> list[Path]:
    """The file that holds the voxels of a MetaImage or NRRD header, if it exists; empty for any other file."""
    if path.stat().st_size > ITK_HEADER.get(kind_of(path) or "", 0):  # another file, or one with voxels
        return []
    try:
        name = data_file(itk_header(path))
    except UserError:  # its reader says what is wrong with it
        return []
    return [path.parent / name] if name and os.path.isfile(path.parent / name) else []


def itk_header(path: Path) -> dict[str, str]:
    """The fields of a MetaImage or NRRD header, by name in lower case, of NRRD without spaces.

    UserError for a line that SimpleITK may read differently, such as a field of the format that stands in two lines:
    what is checked would not be what it opens. Other fields may repeat.
    """
    nrrd, fields = kind_of(path) == "nrrd", {}
    limit = ITK_HEADER["nrrd" if nrrd else "metaimage"]
    with open(path, "rb") as file:
        start = file.read(limit)
    whole = len(start) < limit
    lines = start.split(b"\n")
    for number, line in enumerate(lines if whole else lines[:-1], start=1):
        text = line.removesuffix(b"\r").decode("utf-8", "replace")
        if nrrd and not text:
            return fields
        if not nrrd and not text.strip(" \t"):
            continue
        found = (NRRD_LINE if nrrd else META_LINE).fullmatch(text)
        name = (found and found["name"] or "").rstrip(" \t")
        key = name.lower().replace(" ", "") if nrrd else name.lower()
        value = found["value"] or "" if found else ""
        value = value if nrrd else value.rstrip(" \t")
        own = key != NRRD_TEXT if nrrd else key in META_FIELDS
        doubtful = key in fields or found and found["sign"] == ":" or "\x1b" in text or not nrrd and value[-1:] > "~"
        if not found or CONTROL.search(text) or name and own and doubtful:
            raise UserError(f"{path}: line {number} of its header is ambiguous or damaged; save the volume again")
        if name:
            fields[key] = value
        if name == META_DATA and not nrrd:
            return fields
    if nrrd and whole:  # the voxels are in another file
        return fields
    raise UserError(f"{path}: the header has no end in its first {limit >> 10} KB; save the volume again")


def data_file(fields: dict[str, str]) -> str | None:
    """The name of the data file in the fields of `itk_header`; None if the voxels follow the header."""
    name = fields.get(META_DATA.lower(), fields.get("datafile"))
    return None if name in LOCAL and META_DATA.lower() in fields else name


def read_itk(path: Path) -> Volume:
    """The volume of a MetaImage or NRRD; UserError also for voxels in a file outside of its folder."""
    import SimpleITK as sitk

    fields = itk_header(path)
    _expect_data_beside(data_file(fields), path)
    nrrd = kind_of(path) == "nrrd"
    reader = sitk.ImageFileReader()
    reader.SetImageIO("NrrdImageIO" if nrrd else "MetaImageIO")
    reader.SetFileName(str(path))
    try:
        with _no_warnings(sitk):
            reader.ReadImageInformation()
            size, axes, parts = list(reader.GetSize()), reader.GetDimension(), reader.GetNumberOfComponents()
            while len(size) > 3 and size[-1] == 1:
                size.pop()
            if len(size) != 3 or parts != 1:
                found = f"{len(size)} dimensions {size}" if parts == 1 else f"{parts} values a voxel"
                raise UserError(f"{path}: {found} where a CT has 3 dimensions and one value; save one volume of it")
            expect_voxels(size, path)
            array = sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        reason = " ".join(str(error).rpartition("ERROR:")[2].split())[:200]
        raise UserError(f"{path}: damaged or no volume that SimpleITK reads ({reason}); export it again") from error
    if nrrd and not {"space", "spacedimension"} & fields.keys():
        log.warning("%s: no orientation in the header (space), sides may be exchanged", path)
    affine = np.eye(4)
    spacing = np.array(reader.GetSpacing()[:3])
    affine[:3, :3] = np.reshape(reader.GetDirection(), (axes, axes))[:3, :3] * spacing
    affine[:3, 3] = reader.GetOrigin()[:3]
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise UserError(f"{path}: its header gives no axes of a volume; correct spacing and direction")
    hu = array.reshape(size[::-1]).astype(np.float32).transpose(2, 1, 0)
    return _checked(reorient(hu, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine), path)


def read_npz(path: Path) -> Volume:
    """The volume of RAD-ChestCT's array `ct`; an array `spacing` (mm, one number or D, H, W) replaces its 0.8 mm."""
    with _readable(path), np.load(path, allow_pickle=False) as content:
        if "ct" not in content:
            raise UserError(f"{path}: no array ct in it, found {', '.join(content) or 'none'}; save the CT as ct")
        with content.zip.open("ct.npy") as member:  # the shape, before memory is allocated
            version = np.lib.format.read_magic(member)
            shape, _, dtype = getattr(np.lib.format, f"read_array_header_{version[0]}_0")(member)
        _expect_numbers(without_single(shape), dtype, path)
        spacing = content["spacing"] if "spacing" in content else np.array(RAD_SPACING_MM)
        hu = content["ct"].reshape(without_single(shape)).astype(np.float32)
    return _from_array(hu, spacing, path)


def read_x2ct(path: Path) -> Volume:
    """The volume of X2CT-GAN's array `ct`; UserError for values below 0, which are no HU + 1024."""
    with _opened(path) as arrays:
        ct = _array(arrays, "ct", path)
        shape = without_single(ct.shape)
        _expect_numbers(shape, ct.dtype, path)
        spacing = np.ones(3)
        if "spacing" in arrays and "ori_size" in arrays:
            extent = np.asarray(_array(arrays, "ori_size", path)[()]) * np.asarray(_array(arrays, "spacing", path)[()])
            spacing = np.broadcast_to(extent, 3) / np.array(shape)
        hu = np.asarray(ct, dtype=np.float32).reshape(shape)
    if hu.min() < 0:
        raise UserError(
            f"{path}: values from {hu.min():g} to {hu.max():g} where X2CT-GAN stores HU + 1024; add 1024 or save NIfTI"
        )
    return _from_array(hu - X2CT_OFFSET, spacing, path)


def read_x2ct_xray(path: Path, name: str) -> Float[np.ndarray, "h w"]:
    """`xray1` (frontal) or `xray2` (lateral) of X2CT-GAN's file: bright bone, row 0 superior."""
    with _opened(path) as arrays:
        xray = _array(arrays, name, path)
        expect_pixels(xray.shape, path)
        if xray.dtype.kind not in "uif":
            raise UserError(f"{path}: {name} holds {xray.dtype} where an X-ray holds numbers; export it again")
        return np.squeeze(np.asarray(xray, dtype=np.float32))


def x2ct_pose(path: str | Path) -> Float[Tensor, "9"] | None:
    """The pose of an X-ray `<file>.h5#xray1` of X2CT-GAN; None for any other path."""
    file, _, name = str(path).rpartition("#")
    return torch.tensor(X2CT_POSES[name]) if name in X2CT_POSES and file.lower().endswith(".h5") else None


READERS: dict[str, Callable[[Path], Volume]] = {
    "nifti": read_nifti, "metaimage": read_itk, "nrrd": read_itk, "npz": read_npz, "h5": read_x2ct}  # fmt: skip


def without_single(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape of more than three axes without first and last axes of length 1, such as of batch and channel."""
    while len(shape) > 3 and 1 in (shape[0], shape[-1]):
        shape = shape[1:] if shape[0] == 1 else shape[:-1]
    return shape


def _from_array(hu: np.ndarray, spacing: np.ndarray, path: Path) -> Volume:
    spacing = np.asarray(spacing, dtype=float)
    if hu.ndim != 3 or spacing.size not in (1, 3) or not (np.isfinite(spacing).all() and (spacing > 0).all()):
        raise UserError(f"{path}: an array of {list(hu.shape)} and a spacing of {spacing.tolist()} mm; give 3 axes")
    affine = np.eye(4)
    affine[:3, :3] = DOWNWARD * spacing.ravel()
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(hu.shape) - 1) / 2.0)
    return _checked(reorient(hu, affine), path)


def _checked(volume: Volume, path: Path) -> Volume:
    check_geometry(volume, path)
    check_hu(volume.hu, path)
    return volume


def _expect_numbers(shape: tuple, dtype: np.dtype, path: Path) -> None:
    if len(shape) != 3 or dtype.kind not in "uif":
        raise UserError(f"{path}: ct holds {list(shape)} of {dtype} where a CT is 3-dimensional numbers; save it so")
    expect_voxels(shape, path)


def _expect_data_beside(name: str | None, path: Path) -> None:
    """Raises UserError for several data files, standard input, and a file that is missing or outside of the folder."""
    if name is None:
        return
    if name.upper().startswith("LIST") or "%" in name or name == "-":
        raise UserError(f"{path}: no single data file ({name}); save the volume as one .mha or .nrrd")
    if not is_inside(path.parent / name, path.parent):
        raise UserError(f"{path}: its data file {name} lies outside of its folder; copy it there and correct it")
    if not (path.parent / name).is_file():
        raise UserError(f"{path}: its data file {name} is missing; copy it beside it")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except ARRAY_ERRORS as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise UserError(f"{path}: damaged or not readable ({reason}); copy or export it again") from error


@contextmanager
def _opened(path: Path) -> Iterator:
    """The HDF5 file of a path."""
    try:
        import h5py
    except ImportError as error:
        raise UserError(f"{path}: HDF5 needs the package h5py; pip install h5py") from error
    with _readable(path), h5py.File(path, "r") as file:
        yield file


def _array(file, name: str, path: Path):
    """A data set of an HDF5 file; UserError if it is missing, or its values lie in another file."""
    import h5py

    if name not in file:
        raise UserError(f"{path}: no {name} in it, found {', '.join(file)}; give X2CT-GAN's ct_xray_data.h5")
    found = file[name] if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
    if not isinstance(found, h5py.Dataset) or found.is_virtual or found.external:
        raise UserError(f"{path}: {name} is a link or no array; store its values in the file itself")
    return found


def _has_ct(path: str | Path) -> bool:
    try:
        with _opened(Path(path)) as file:
            return "ct" in file
    except UserError as error:
        if "needs the package" in str(error):
            raise
        return False


@contextmanager
def _no_warnings(sitk) -> Iterator[None]:
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.GlobalWarningDisplayOff()
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)
