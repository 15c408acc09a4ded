"""Limits that readers check before they allocate memory or follow a path.

A short header can claim any size, a compressed file can grow a thousandfold, and a link or `..` can lead anywhere.
"""

import math
import os
import zlib
from collections.abc import Iterable
from pathlib import Path

import pydicom

from common.errors import UserError

MAX_PIXELS = 100_000_000  # of one X-ray or slice: 10,000 x 10,000
MAX_VOXELS = 2_000_000_000  # of one CT: 1024 x 1024 x 1900, 8 GB in float32
MAX_UNPACKED = 1 << 30  # bytes of a deflated DICOM file
MAX_OFFSET = 1 << 28  # bytes before the voxels of a NIfTI file
LINKS = "copy the file there, or set dataset.follow_links=true to follow it"
DEFLATED = "1.2.840.10008.1.2.1.99"
PREAMBLE = 132  # bytes up to and including the prefix DICM
CHUNK = 1 << 20  # bytes


def expect_pixels(shape: Iterable[int], path: str | Path, limit: int | None = None, unit: str = "pixels") -> None:
    """Raises UserError for an image of more than `MAX_PIXELS`."""
    sizes, limit = [int(n) for n in shape], limit or MAX_PIXELS
    if any(n < 0 for n in sizes) or math.prod(sizes) > limit:
        shown = "x".join(str(n) for n in sizes)
        raise UserError(f"{path}: {shown} {unit} in its header, at most {limit:,} are read; export it in its own size")


def expect_voxels(shape: Iterable[int], path: str | Path) -> None:
    """Raises UserError for a volume of more than `MAX_VOXELS`."""
    expect_pixels(shape, path, MAX_VOXELS, "voxels")


def expect_dicom_size(path: str | Path) -> None:
    """Raises UserError for a deflated DICOM file of more than `MAX_UNPACKED`, which pydicom would decompress whole.

    Other files pass.
    """
    unpacker, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
    with open(path, "rb") as file:
        if file.read(PREAMBLE)[128:] != b"DICM":
            return
        meta = pydicom.filereader.read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
        if str(meta.get("TransferSyntaxUID", "")) != DEFLATED:
            return
        data = file.read(CHUNK)  # the compressed part begins after the meta header
        while data:
            total += len(unpacker.decompress(data, CHUNK))
            if total > MAX_UNPACKED:
                raise UserError(f"{path}: a deflated file that unpacks to over a GB; export it uncompressed")
            data = unpacker.unconsumed_tail or file.read(CHUNK)


def expect_inside(path: str | Path, root: str | Path, where: str, remedy: str) -> None:
    """Raises UserError for a path outside a folder, whether by `..`, as an absolute path or through a link.

    `where` names the origin of the path, such as a row of a table; the message ends with `remedy`.
    """
    if not is_inside(path, root):
        raise UserError(f"{where}: {path} leads out of {root}; {remedy}")


def expect_links_inside(root: str | Path, remedy: str = LINKS) -> None:
    """Raises UserError for a link at any depth of a folder that leads out of it."""
    for folder, children, files in os.walk(root):
        for name in (*children, *files):
            path = Path(folder, name)
            if path.is_symlink() and path.exists():
                expect_inside(path, root, "a link", remedy)


def is_inside(path: str | Path, root: str | Path) -> bool:
    """Whether a path lies in a folder after all links are resolved."""
    try:
        return Path(path).resolve().is_relative_to(Path(root).resolve())
    except (OSError, RuntimeError, ValueError):  # a loop of links, an invalid name
        return False
