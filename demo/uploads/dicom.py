"""Size checks of DICOM radiographs and CTs by header and by the header of compressed pixels."""

import re
import struct
from pathlib import Path

import pydicom

from common.errors import UserError
from demo.uploads.image import expect_pixels, expect_scans, jpeg_size

DEFLATED = "1.2.840.10008.1.2.1.99"  # Deflated Explicit VR: the whole data set is compressed, of any size
UNPACKED = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
DEFERRED = 1 << 20  # bytes above which pydicom reads an element only on access
PIXELS = 0x7FE00010
MAY_FOLLOW = (0xFFFAFFFA, 0xFFFCFFFC)  # signatures, padding
# The preamble of 128 bytes is free, so a file can be DICOM and a program or archive at once.
FOREIGN = (b"MZ", b"\x7fELF", b"PK", b"%PDF", b"#!", b"<", b"GIF8", b"\x89PNG", b"\xff\xd8", b"Rar!", b"\xca\xfe")


def expect_dicom(upload: Path, start: bytes, size: int, most: int = 1) -> int:
    """Pixels of all frames; UserError: also another kind of file, deflated, over `most` frames, colour, wrong size."""
    if start.startswith(FOREIGN):
        raise UserError("the X-ray: a DICOM file that is also another kind of file; export it again")
    syntax = expect_inflated(upload)
    header = pydicom.dcmread(upload, defer_size=DEFERRED)
    rows, columns = int(header.get("Rows", 0) or 0), int(header.get("Columns", 0) or 0)
    frames, channels = int(header.get("NumberOfFrames", 1) or 1), int(header.get("SamplesPerPixel", 1) or 1)
    bits = int(header.get("BitsAllocated", 16) or 16)
    if not 1 <= frames <= most:
        raise UserError(f"the X-ray: {frames} frames; export {'a single frame' if most == 1 else f'at most {most}'}")
    if channels != 1 or bits not in (8, 16, 32):
        raise UserError(f"the X-ray: {channels} channels of {bits} bits; export it as grey DICOM or PNG")
    expect_pixels(columns, rows)
    if "PixelData" not in header:
        raise UserError("the X-ray: a DICOM file without a picture; give the image itself")
    tags = [int(tag) for tag in header.keys()]  # noqa: SIM118 (in the order of the file; a Dataset iterates sorted)
    if any(tag not in MAY_FOLLOW for tag in tags[tags.index(PIXELS) + 1 :]):
        raise UserError("the X-ray: the DICOM file has data after the picture; export it again")
    stored, plain = header["PixelData"].value, syntax in UNPACKED or not syntax
    if stored is None or len(stored) > size or (plain and len(stored) < frames * rows * columns * bits // 8):
        raise UserError("the X-ray: the DICOM file is cut off; copy it again")
    if not plain:
        for frame in pydicom.encaps.generate_frames(bytes(stored), number_of_frames=frames):
            _expect_stream(frame, rows, columns)
    return frames * rows * columns


def expect_inflated(upload: Path) -> str:
    """The transfer syntax; UserError for a deflated file, which a reader of its header decompresses whole."""
    syntax = str(pydicom.filereader.read_file_meta_info(upload).get("TransferSyntaxUID", ""))
    if syntax == DEFLATED:
        raise UserError("the X-ray: a deflated DICOM file; export it uncompressed")
    return syntax


def _expect_stream(frame: bytes, rows: int, columns: int) -> None:
    """Checks that the codestream has the size of the header, because decoders allocate by the codestream."""
    if frame.startswith(b"\xff\xd8"):
        width, height = jpeg_size(frame)
        expect_scans(frame)
    elif found := re.search(rb"\xff\x51..(.{36})", frame[:4096], re.DOTALL):  # SIZ of JPEG 2000
        right, lower, left, upper = struct.unpack(">4I", found.group(1)[2:18])
        width, height = right - left, lower - upper
    elif len(frame) >= 64 and struct.unpack("<I", frame[:4])[0] in (1, 2, 4):  # RLE has the size of the header
        return
    else:
        raise UserError("the X-ray: unknown compression; export it uncompressed or as PNG")
    if (width, height) != (columns, rows):
        raise UserError(f"the X-ray: {columns}x{rows} pixels in the header, {width}x{height} stored; export it again")
