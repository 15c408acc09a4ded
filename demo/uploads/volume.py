"""Checks of uploaded CTs by header: NIfTI, MetaImage, NRRD, the array of an `.npz`, and a zip of a volume or series.

A reader allocates what a header declares, so the declared size is checked first; a zip is unpacked up to a limit.
"""

import math
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import numpy as np

from common.errors import UserError
from dataset.io.dicom_headers import read_ct_header, slices_of
from dataset.io.file_kind import kind_of
from dataset.io.volume_files import data_file, itk_header
from demo.uploads.dicom import expect_dicom, expect_inflated
from demo.uploads.nifti import HEADER, MAX_AXIS, MAX_VOXELS, expect_nifti

NAME = "the CT"
CHUNK = 1 << 16  # bytes
ITK = {"metaimage": "MetaImageIO", "nrrd": "NrrdImageIO"}
ENDINGS = {"metaimage": ".mha", "nrrd": ".nrrd", "npz": ".npz"}
MAX_FILES, MAX_UNPACKED = 4000, 1 << 30  # of a zip: files, bytes
MAX_DIRECTORY = MAX_FILES * 512  # bytes of the directory of a zip: an entry has 46, its name and other fields
END_RECORD = (1 << 16) + 256  # bytes at the end of a zip that hold the end records and the longest comment
FULL = 0xFFFFFFFF  # of a field whose value stands in the ZIP64 record
PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # Python inflates others without a limit
WANTED = "a volume (NIfTI, MetaImage, NRRD, .npz) or a zip of a DICOM series or of .mhd and .raw"


def expect_volume(upload: Path, start: bytes, size: int) -> str:
    """Returns the extension of a file with one CT; UserError: another kind, damaged, too large, or data beside it."""
    kind = kind_of(upload)
    if kind in ITK:
        _expect_header(upload, kind)
        return ENDINGS[kind]
    if kind == "npz":
        _expect_npz(upload)
        return ENDINGS[kind]
    if kind == "dicom":
        raise UserError(f"{NAME}: a DICOM file alone; upload a zip of the whole series, or of one multi-frame file")
    if kind != "nifti" and not start.startswith(b"\x1f\x8b"):
        raise UserError(f"{NAME}: the content is not {WANTED}; export it as one")
    return expect_nifti(upload, start, size, NAME, True)


def expect_directory(upload: Path) -> None:
    """Refuses a zip whose directory is larger than `MAX_FILES` entries need, before `zipfile` parses all of it.

    The size stands in the end record (PKWARE's APPNOTE, 4.3.16), or, where that is full, in the ZIP64 record (4.3.14),
    which some writers put in front of it at any size.
    """
    with upload.open("rb") as file:
        file.seek(max(0, upload.stat().st_size - END_RECORD))
        end = file.read()
    place = end.rfind(b"PK\5\6")
    if place < 0 or len(end) < place + 20:
        raise zipfile.BadZipFile("no end record")
    size = struct.unpack_from("<L", end, place + 12)[0]
    if size == FULL and (place := end.rfind(b"PK\6\6", 0, place)) >= 0:
        size = struct.unpack_from("<Q", end, place + 40)[0]
    if size > MAX_DIRECTORY:
        raise UserError(f"{NAME}: a zip of too many or too large files, at most {MAX_FILES} files are allowed")


def unpack_zip(upload: Path, place: Path) -> Path:
    """Unpacks a zip into the new folder `place`; returns the one volume file in it, or the folder of a DICOM series.

    Hidden files do not count. UserError for too many or too large files, and if it holds no volume or several.
    """
    place.mkdir(mode=0o700)
    with zipfile.ZipFile(upload) as archive:
        infos = [info for info in archive.infolist() if not info.is_dir() and not _hidden(info.filename)]
        if len(infos) > MAX_FILES or sum(info.file_size for info in infos) > MAX_UNPACKED:
            limits = f"at most {MAX_FILES} files and {MAX_UNPACKED >> 20} MB are allowed"
            raise UserError(f"{NAME}: a zip of too many or too large files, {limits}")
        _expect_packing(infos)
        for info in infos:
            # the base name alone: no folder of the zip is made, and nothing lands outside
            target = place / PurePosixPath(info.filename.replace("\\", "/")).name
            target = target if not target.exists() else place / f"{len(list(place.iterdir()))}_{target.name}"
            with archive.open(info) as source, target.open("xb") as copy:
                target.chmod(0o600)
                while part := source.read(CHUNK):
                    copy.write(part)
    return _one_volume(place)


def _one_volume(place: Path) -> Path:
    kinds = {file: kind_of(file) for file in sorted(place.iterdir())}
    volumes = [file for file, kind in kinds.items() if kind in ("nifti", "metaimage", "nrrd", "npz")]
    slices = [file for file, kind in kinds.items() if kind == "dicom"]
    if len(volumes) + bool(slices) != 1:
        found = f"{len(volumes)} volume files and {len(slices)} DICOM files"
        raise UserError(f"{NAME}: {found} in the zip where one CT is compared; upload {WANTED}")
    if slices:
        pixels = sum(map(_ct_pixels, slices))
        if pixels > MAX_VOXELS:
            raise UserError(f"{NAME}: {pixels} voxels, at most {MAX_VOXELS // 10**6} million are allowed")
        return place
    (file,) = volumes
    if kinds[file] in ITK:
        _expect_header(file, kinds[file], inside=True)
        return file
    with file.open("rb") as opened:
        expect_volume(file, opened.read(HEADER), file.stat().st_size)
    return file


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name.replace("\\", "/")).parts)


def _expect_header(upload: Path, kind: str, inside: bool = False) -> None:
    """Checks header and size of a MetaImage or NRRD; `inside` a zip its voxels may be in another file of the zip."""
    with _as_ct(str(upload)):
        name = data_file(itk_header(upload))
    beside = inside and name and len(PurePosixPath(name).parts) == 1 and (upload.parent / name).is_file()
    if name is not None and not beside:  # SimpleITK opens it with the header
        raise UserError(f"{NAME}: its voxels are in another file; upload a zip of both")
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    reader = sitk.ImageFileReader()
    reader.SetImageIO(ITK[kind])
    reader.SetFileName(str(upload))
    reader.ReadImageInformation()
    _expect_size(list(reader.GetSize()), reader.GetNumberOfComponents())


def _expect_npz(upload: Path) -> None:
    with zipfile.ZipFile(upload) as archive:
        _expect_packing(archive.infolist())
        for info in archive.infolist():
            with archive.open(info) as member:
                version = np.lib.format.read_magic(member)
                shape, _, dtype = getattr(np.lib.format, f"read_array_header_{version[0]}_0")(member)
            _expect_size(list(shape) or [1], 1)
            if dtype.kind not in "uif" or info.file_size > MAX_VOXELS * 8:
                raise UserError(f"{NAME}: an array of {dtype}; save the CT as numbers")


def _expect_packing(infos: list[zipfile.ZipInfo]) -> None:
    if any(info.compress_type not in PACKINGS for info in infos):
        raise UserError(f"{NAME}: a zip packed with bzip2, LZMA or the like; pack it with Deflate")


def _expect_size(dims: list[int], values: int) -> None:
    if math.prod(dims) * values > MAX_VOXELS or max(dims) > MAX_AXIS or min(dims) < 1:
        shown = "x".join(map(str, dims))
        limits = f"at most {MAX_AXIS} an axis and {MAX_VOXELS // 10**6} million are allowed"
        raise UserError(f"{NAME}: {shown} values, {limits}")


def _ct_pixels(file: Path) -> int:
    """Pixels of a DICOM file after `expect_dicom`; removes a file that is no slice of a CT and returns 0.

    Such as a dose report, with or without a position: the reader leaves out colour images and localisers.
    """
    with _as_ct("the X-ray"), file.open("rb") as opened:
        expect_inflated(file)
        header = read_ct_header(file)
        if header is None or not any(one.position and not one.other for one in slices_of(header, file)):
            file.unlink()
            return 0
        return expect_dicom(file, opened.read(HEADER), file.stat().st_size, MAX_FILES)


@contextmanager
def _as_ct(named: str) -> Iterator[None]:
    """Errors name the CT in place of `named`."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace(named, NAME)) from None
