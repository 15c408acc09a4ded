"""The format of a file by its first bytes; endings may be missing or wrong."""

import re
import zipfile
import zlib
from pathlib import Path

HEADER = 352  # bytes of a NIfTI header
PACKED = 4096  # bytes of a gzip file that unpack to a header
NIFTI = {b"\x5c\x01\0\0": 344, b"\0\0\x01\x5c": 344, b"\x1c\x02\0\0": 4, b"\0\0\x02\x1c": 4}  # size -> place of magic
PICTURES = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"BM", b"GIF8")
METAIMAGE = re.compile(rb"^NDims\s*=.*^ElementDataFile\s*=", re.MULTILINE | re.DOTALL)
NPZ = "ct.npy"  # the CT among the arrays of an archive
FIRST_GROUPS = (b"\x02\0", b"\x08\0")  # of a DICOM file without preamble, little endian


def kind_of(path: str | Path) -> str:
    """The format of a file, or "" for any other file and for one that cannot be read.

    `dicom`, `nifti`, `metaimage`, `nrrd`, `npz` (with an array `ct`), `h5`, `npy` or `picture`.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(PACKED)
        if start[:2] == b"\x1f\x8b":
            start = zlib.decompressobj(31).decompress(start, HEADER)
    except (OSError, zlib.error):
        return ""
    if start[128:132] == b"DICM":
        return "dicom"
    if (place := NIFTI.get(start[:4])) is not None and start[place : place + 2] == b"n+":
        return "nifti"
    if start.startswith(b"\x93NUMPY"):
        return "npy"
    if start.startswith(PICTURES):
        return "picture"
    if start.startswith(b"NRRD0"):
        return "nrrd"
    if start.startswith(b"\x89HDF\r\n"):
        return "h5"
    if start.startswith(b"PK\3\4"):
        return "npz" if _holds(path, NPZ) else ""
    if METAIMAGE.search(start):
        return "metaimage"
    return "dicom" if start[:2] in FIRST_GROUPS and start[3:4] == b"\0" else ""


def _holds(path: str | Path, name: str) -> bool:
    """Whether a zip archive has a file of this name; false if its directory cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            return name in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False
