"""Checks of uploaded CTs by header: NIfTI, MetaImage, NRRD, the array of an `.npz`, and a zip of a volume or series.

A reader allocates what a header declares, so the declared size is checked first; a zip is unpacked up to a limit.
"""

import math
import re
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import numpy as np
import pydicom

from common.errors import UserError
from dataset.io.file_kind import kind_of
from demo.uploads.dicom import DEFERRED, expect_dicom
from demo.uploads.nifti import HEADER, MAX_AXIS, MAX_VOXELS, expect_nifti

NAME = "the CT"
TEXT = 1 << 16  # bytes of a header
SIZES = {"metaimage": rb"^DimSize\s*=([ \d]+)\r?$", "nrrd": rb"^sizes:([ \d]+)\r?$"}
VALUES = {"metaimage": rb"^ElementNumberOfChannels\s*=\s*(\d+)\r?$", "nrrd": rb"^(?!)"}
ENDINGS = {"metaimage": ".mha", "nrrd": ".nrrd", "npz": ".npz"}
MAX_FILES, MAX_UNPACKED = 4000, 1 << 30  # of a zip: files, bytes
MAX_DIRECTORY = MAX_FILES * 512  # bytes of the directory of a zip: an entry has 46, its name and other fields
END_RECORD = (1 << 16) + 256  # bytes at the end of a zip that hold the end records and the longest comment
FULL = 0xFFFFFFFF  # of a field whose value stands in the ZIP64 record
WANTED = "a volume (NIfTI, MetaImage, NRRD, .npz) or a zip of a DICOM series or of .mhd and .raw"


def expect_volume(upload: Path, start: bytes, size: int) -> str:
    """Returns the extension of a file with one CT; UserError: another kind, damaged, too large, or data beside it."""
    kind = kind_of(upload)
    if kind in SIZES:
        _expect_header(upload, kind)
        return ENDINGS[kind]
    if kind == "npz":
        _expect_npz(upload)
        return ENDINGS[kind]
    if kind == "dicom":
        raise UserError(f"{NAME}: one DICOM file is no volume; upload a zip of the whole series")
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
        for info in infos:
            # the base name alone: no folder of the zip is made, and nothing lands outside
            target = place / PurePosixPath(info.filename.replace("\\", "/")).name
            target = target if not target.exists() else place / f"{len(list(place.iterdir()))}_{target.name}"
            with archive.open(info) as source, target.open("xb") as copy:
                target.chmod(0o600)
                while part := source.read(TEXT):
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
        pixels = sum(map(_slice_pixels, slices))
        if pixels > MAX_VOXELS:
            raise UserError(f"{NAME}: {pixels} voxels, at most {MAX_VOXELS // 10**6} million are allowed")
        return place
    (file,) = volumes
    if kinds[file] in SIZES:
        _expect_header(file, kinds[file], inside=True)
        return file
    with file.open("rb") as opened:
        expect_volume(file, opened.read(HEADER), file.stat().st_size)
    return file


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name.replace("\\", "/")).parts)


def _expect_header(upload: Path, kind: str, inside: bool = False) -> None:
    """Checks the declared size of a MetaImage or NRRD; `inside` a zip its voxels may lie in another file."""
    with upload.open("rb") as file:
        text = file.read(TEXT)
    text = text.partition(b"\n\n")[0] if kind == "nrrd" else re.split(rb"(?m)^(?=ElementDataFile)", text)[0]
    found = re.findall(SIZES[kind], text, re.MULTILINE)
    dims = [int(n) for n in found[0].split()] if len(found) == 1 else []
    if not dims or len(dims) > 7:
        raise UserError(f"{NAME}: a damaged header; export it again")
    _expect_size(dims, math.prod(int(n) for n in re.findall(VALUES[kind], text, re.MULTILINE)))
    with upload.open("rb") as file:
        whole = file.read(TEXT)
    beside = re.search(rb"^data ?file:", text, re.MULTILINE | re.IGNORECASE) if kind == "nrrd" else (
        re.search(rb"^ElementDataFile\s*=[ \t]*LOCAL[ \t]*\r?$", whole, re.MULTILINE) is None
    )  # fmt: skip
    if beside and not inside:
        raise UserError(f"{NAME}: its voxels are in another file; upload a zip of both")


def _expect_npz(upload: Path) -> None:
    with zipfile.ZipFile(upload) as archive:
        for info in archive.infolist():
            with archive.open(info) as member:
                version = np.lib.format.read_magic(member)
                shape, _, dtype = getattr(np.lib.format, f"read_array_header_{version[0]}_0")(member)
            _expect_size(list(shape) or [1], 1)
            if dtype.kind not in "uif" or info.file_size > MAX_VOXELS * 8:
                raise UserError(f"{NAME}: an array of {dtype}; save the CT as numbers")


def _expect_size(dims: list[int], values: int) -> None:
    if math.prod(dims) * values > MAX_VOXELS or max(dims) > MAX_AXIS or min(dims) < 1:
        shown = "x".join(map(str, dims))
        limits = f"at most {MAX_AXIS} an axis and {MAX_VOXELS // 10**6} million are allowed"
        raise UserError(f"{NAME}: {shown} values, {limits}")


def _slice_pixels(file: Path) -> int:
    """Pixels of a slice after the checks of `expect_dicom`; removes a DICOM file without picture and returns 0."""
    header = pydicom.dcmread(file, defer_size=DEFERRED)
    if "PixelData" not in header:
        file.unlink()
        return 0
    with _of_the_ct(), file.open("rb") as opened:
        expect_dicom(file, opened.read(HEADER), file.stat().st_size)
    return int(header.Rows) * int(header.Columns)


@contextmanager
def _of_the_ct() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace("the X-ray", NAME)) from None
