"""Size checks of NIfTI files by header, with decompression limited to the declared size."""

import math
import struct
import zlib
from pathlib import Path

from common.errors import UserError
from demo.uploads.image import MAX_PIXELS, MAX_SIDE

MAX_AXIS = 2048  # voxels
MAX_VOXELS = 200_000_000  # 512 x 512 x 760
CHUNK = 1 << 20
HEADER = 352  # bytes of the header and the extension flag
# per value, by datatype code; real types only
BYTES = {2: 1, 4: 2, 8: 4, 16: 4, 64: 8, 256: 1, 512: 2, 768: 4, 1024: 8, 1280: 8}
MAX_OFFSET = 1 << 20  # bytes before the first voxel
SLACK = 4096  # bytes that may follow the voxels


def expect_nifti(upload: Path, start: bytes, size: int, name: str, volume: bool) -> str:
    """Returns `.nii` or `.nii.gz`; UserError: not NIfTI, damaged, too many values, or another length than declared.

    Args:
        start: the first `HEADER` bytes.
        size: bytes of the file.
        name: subject of the error messages.
        volume: whether to expect three dimensions, else an image.
    """
    packed = start.startswith(b"\x1f\x8b")
    expected = _length(_unpacked(upload, HEADER, name)[0] if packed else start, name, volume)
    found = _unpacked(upload, expected + SLACK, name, keep=False)[1] if packed else size
    if found > expected + SLACK:
        raise UserError(f"{name}: longer than its header declares; export it again")
    if found < expected:
        raise UserError(f"{name}: the NIfTI file is cut off; copy or export it again")
    return ".nii.gz" if packed else ".nii"


def _length(start: bytes, name: str, volume: bool) -> int:
    """Length of the whole file in bytes by its header (NIfTI-1: sizeof_hdr, dim, datatype, vox_offset, magic)."""
    order = {348: "<", 1543569408: ">"}.get(struct.unpack("<i", start[:4])[0] if len(start) >= 4 else 0)
    if order is None or len(start) < 348 or start[344:348] not in (b"n+1\0", b"n+1 "):
        wanted = "a NIfTI file (.nii or .nii.gz)" if volume else "a PNG, JPEG, DICOM or NIfTI file"
        raise UserError(f"{name}: the content is not {wanted}; export it as one")
    count, *dims = struct.unpack(f"{order}8h", start[40:56])
    datatype, offset = struct.unpack(f"{order}h", start[70:72])[0], struct.unpack(f"{order}f", start[108:112])[0]
    known = 1 <= count <= 7 and min(dims[:count]) >= 1 and datatype in BYTES
    if not known or not 348 <= offset <= MAX_OFFSET:
        raise UserError(f"{name}: a damaged NIfTI header; export it again")
    dims, voxels = dims[:count], math.prod(dims[:count])
    most, longest = (MAX_VOXELS, MAX_AXIS) if volume else (MAX_PIXELS, MAX_SIDE)
    shown = "x".join(map(str, dims))
    if voxels > most or max(dims) > longest:
        raise UserError(f"{name}: {shown} values, at most {longest} an axis and {most // 10**6} million are allowed")
    if not volume and sum(n > 1 for n in dims) > 2:
        raise UserError(f"{name}: a volume of {shown} where an X-ray is one slice; give a PNG, JPEG or DICOM")
    return int(offset) + voxels * BYTES[datatype]


def _unpacked(upload: Path, most: int, name: str, keep: bool = True) -> tuple[bytes, int]:
    """Returns the first `most` bytes of a gzip file and its decompressed length, counted to one chunk past `most`."""
    inflater, kept, found = zlib.decompressobj(wbits=31), bytearray(), 0
    with upload.open("rb") as file:
        while found <= most and (chunk := file.read(CHUNK // 16)):
            while chunk and found <= most and not inflater.eof:
                out = inflater.decompress(chunk, CHUNK)
                chunk, found = inflater.unconsumed_tail, found + len(out)
                if keep:
                    kept += out
            if inflater.eof:
                if inflater.unused_data.strip(b"\0") or file.read(CHUNK).strip(b"\0"):
                    raise UserError(f"{name}: the gzip file has data after its end; export it again")
                break
    return bytes(kept[:most]), found
