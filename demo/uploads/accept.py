"""Checks of uploads before they are read: kind by content, and size within limits.

A header may declare any number of pixels, and a few bytes may inflate to gigabytes. The checks allocate nothing before
the declared size is within limits, and decompress no more than the declared size. File names play no role.
What follows a picture in its file (a trailer, the preview of a camera) is not copied.
"""

import struct
import zipfile
import zlib
from pathlib import Path

import pydicom

from common.errors import UserError
from dataset.io.file_kind import kind_of
from demo.uploads.dicom import expect_dicom
from demo.uploads.image import expect_jpeg, expect_png
from demo.uploads.nifti import HEADER, expect_nifti
from demo.uploads.volume import expect_directory, expect_volume, unpack_zip

# Errors of header parsers on malformed files; deeply nested DICOM sequences raise RecursionError.
DAMAGED = (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError, RuntimeError,
           NotImplementedError, OverflowError, MemoryError, struct.error, zlib.error,
           zipfile.BadZipFile, pydicom.errors.InvalidDicomError, pydicom.errors.BytesLengthException)  # fmt: skip

CHUNK = 1 << 20  # bytes
UNPACKED = "upload_ct"  # folder of a CT that came as a zip


def accept_upload(upload: Path, place: Path, max_bytes: int, volume: bool = False, lateral: bool = False) -> Path:
    """Copies an X-ray, or with `volume` a CT, to `place` with the extension of its kind; returns the copy.

    `lateral` marks the second view of a patient, for its own file name and messages.

    A zip of a CT is unpacked into the folder `UNPACKED`; returns its volume file, or this folder for a DICOM series.

    Raises:
        UserError: an unknown kind, too large or damaged. The message does not contain the file name.
    """
    name = "the CT" if volume else "the lateral" if lateral else "the X-ray"
    if not upload.is_file():
        raise UserError(f"{name}: the file was deleted; upload it again")
    size = upload.stat().st_size
    if size > max_bytes:
        raise UserError(f"{name}: {size / 2**20:.0f} MB, at most {max_bytes / 2**20:.0f} MB are allowed")
    try:
        if volume and _is_archive(upload):
            return unpack_zip(upload, place / UNPACKED)
        kind, length = _checked_kind(upload, size, name, volume)
    except DAMAGED as error:
        raise UserError(f"{name}: damaged ({type(error).__name__}); export it again") from None
    target = place / f"upload{'_ct' if volume else '_lateral' if lateral else ''}{kind}"
    with upload.open("rb") as source, target.open("wb") as copy:
        target.chmod(0o600)
        while length > 0 and (part := source.read(min(length, CHUNK))):
            length -= copy.write(part)
    return target


def _checked_kind(upload: Path, size: int, name: str, volume: bool) -> tuple[str, int]:
    """The extension, and the bytes to copy."""
    with upload.open("rb") as file:
        start = file.read(HEADER)
    if not volume and start.startswith(b"\x89PNG\r\n\x1a\n"):
        return expect_png(upload, size)
    if not volume and start.startswith(b"\xff\xd8\xff"):
        return expect_jpeg(upload)
    if not volume and start[128:132] == b"DICM":
        expect_dicom(upload, start, size)
        return ".dcm", size
    return expect_volume(upload, start, size) if volume else expect_nifti(upload, start, size, name, False), size


def _is_archive(upload: Path) -> bool:
    """Whether a file is a zip of files, and not of arrays; UserError for one with too many files."""
    with upload.open("rb") as file:
        if file.read(4) != b"PK\3\4":
            return False
    expect_directory(upload)
    return kind_of(upload) != "npz"
