"""Size checks of PNG and JPEG files by chunks and markers, without decoding."""

import re
import struct
from pathlib import Path

from common.errors import UserError
from dataset.io.xray import LARGEST_ASPECT

MAX_SIDE = 8192  # pixels; a digital detector has at most about 5000
MAX_PIXELS = 30_000_000
MAX_SCANS = 100  # of a JPEG; a progressive one has about 10, and a decoder goes over the whole picture for each
MAX_TEXT = 1 << 20  # bytes of a compressed text or colour profile
CHANNELS = {2: 3, 4: 2, 6: 4}  # by the colour type of a PNG
MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)  # of a JPEG; others belong to the compressed pixels
LARGE, MAX_RATIO = 4 << 20, 300  # bytes above which to check the ratio; blank images have about 1000


def expect_png(upload: Path, size: int) -> tuple[str, int]:
    """Checks the chunks of a PNG (IHDR first, one picture, few enough pixels); returns `.png` and its length."""
    with upload.open("rb") as file:
        file.seek(8)
        first, packed = True, 0
        while True:
            head = file.read(8)
            if len(head) < 8:
                raise UserError("the X-ray: the PNG is cut off; copy or export it again")
            length, kind = struct.unpack(">I4s", head)
            if first and (kind != b"IHDR" or length != 13):
                raise UserError("the X-ray: a damaged PNG; export it again")
            if first:
                width, height, depth, colour = struct.unpack(">IIBB", file.read(10))
                expect_pixels(width, height)
                whole = width * height * CHANNELS.get(colour, 1) * depth // 8
                file.seek(-10, 1)
            if kind == b"acTL":
                raise UserError("the X-ray: an animated PNG; export a single picture")
            if kind in (b"zTXt", b"iTXt", b"iCCP") and length > MAX_TEXT:
                raise UserError("the X-ray: the PNG contains too much text; export it without")
            first, packed = False, packed + length * (kind == b"IDAT")
            file.seek(length + 4, 1)
            if file.tell() > size:
                raise UserError("the X-ray: the PNG is cut off; copy or export it again")
            if kind == b"IEND":
                break
        if whole > LARGE and whole > MAX_RATIO * packed:
            raise UserError("the X-ray: the image is blank; export it again")
        return ".png", file.tell()


def expect_jpeg(upload: Path) -> tuple[str, int]:
    """Checks frame header, scans and end of a JPEG; returns `.jpg` and its length. UserError: damaged or too large."""
    data = upload.read_bytes()
    expect_pixels(*jpeg_size(data))
    length = _jpeg_end(data)
    expect_scans(data[:length])
    return ".jpg", length


def jpeg_size(data: bytes) -> tuple[int, int]:
    """Returns width and height from the frame header (SOF) of JPEG or JPEG-LS; UserError if there is none."""
    at = 2
    while at + 9 <= len(data):
        if data[at] != 0xFF:
            raise UserError("the X-ray: a damaged JPEG; export it again")
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) or marker == 0xF7:
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        length = struct.unpack(">H", data[at + 2 : at + 4])[0]
        if marker in (0xDA, 0xD9) or length < 2:
            break
        at += 2 + length
    raise UserError("the X-ray: a damaged JPEG; export it again")


def expect_scans(data: bytes) -> None:
    """Raises UserError for a JPEG of more than `MAX_SCANS` scans, counted by their markers (SOS)."""
    if (scans := data.count(b"\xff\xda")) > MAX_SCANS:
        raise UserError(f"the X-ray: a JPEG of {scans} scans, at most {MAX_SCANS} are allowed; export it as PNG")


def _jpeg_end(data: bytes) -> int:
    """Position after the end marker (EOI) of the first picture; segments, which may hold a preview, are skipped."""
    at = 2
    while found := MARKER.search(data, at):
        at = found.end()
        if data[at - 1] == 0xD9:
            return at
        if data[at - 1] != 0x01:  # TEM alone has no length
            at += struct.unpack(">H", data[at : at + 2].rjust(2, b"\0"))[0]
    raise UserError("the X-ray: the JPEG is cut off; copy or export it again")


def expect_pixels(width: int, height: int) -> None:
    """Raises UserError for too many pixels or an extreme aspect ratio."""
    if not (width and height) or max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        most = f"at most {MAX_SIDE} a side and {MAX_PIXELS // 10**6} million in all are allowed"
        raise UserError(f"the X-ray: {width}x{height} pixels, {most}")
    if max(width, height) > LARGEST_ASPECT * min(width, height):
        raise UserError(f"the X-ray: {width}x{height} pixels; give a whole frontal chest X-ray")
