"""What a file may ask for before it is believed: how many pixels and voxels, what it unpacks to, and where it lies.

A header of a few bytes can claim any size, a packed file can grow a thousandfold, and a link or a `..` can lead to
files that nobody meant to give. Each reader asks here before it reserves memory or follows a path.
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
LINKS = "copy the file there, or set dataset.follow_links=true if you know where it leads"
DEFLATED = "1.2.840.10008.1.2.1.99"
START = 132  # bytes: preamble and mark
PIECE = 1 << 20


def expect_pixels(shape: Iterable[int], path: str | Path) -> None:
    """Raises UserError for an image of more than `MAX_PIXELS`."""
    _expect(tuple(shape), MAX_PIXELS, "pixels", path)


def expect_voxels(shape: Iterable[int], path: str | Path) -> None:
    """Raises UserError for a volume of more than `MAX_VOXELS`."""
    _expect(tuple(shape), MAX_VOXELS, "voxels", path)


def expect_dicom_size(path: str | Path) -> None:
    """Refuses a deflated DICOM file that grows beyond `MAX_UNPACKED`: pydicom would unpack it whole.

    Raises:
        UserError: naming the file. What is no DICOM passes: its reader tells.
    """
    unpacker, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
    with open(path, "rb") as file:
        if file.read(START)[128:] != b"DICM":
            return
        meta = pydicom.filereader.read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
        if str(meta.get("TransferSyntaxUID", "")) != DEFLATED:
            return
        data = file.read(PIECE)  # it stopped where the packed part starts
        while data:
            total += len(unpacker.decompress(data, PIECE))
            if total > MAX_UNPACKED:
                raise UserError(f"{path}: a deflated file that unpacks to over a GB; export it uncompressed")
            data = unpacker.unconsumed_tail or file.read(PIECE)


def expect_inside(path: str | Path, root: str | Path, where: str, remedy: str) -> None:
    """Refuses a path that leads out of a folder, by `..`, as an absolute path or through a link.

    Args:
        where: what named the path, such as a row of a table, for the message.
        remedy: what the user can do.

    Raises:
        UserError: naming `where`, the path and the remedy.
    """
    if not is_inside(path, root):
        raise UserError(f"{where}: {path} leads out of {root}; {remedy}")


def expect_links_inside(root: str | Path, remedy: str = LINKS) -> None:
    """Raises UserError for a link in a folder, at any depth, that leads out of it."""
    for folder, children, files in os.walk(root):
        for name in (*children, *files):
            path = Path(folder, name)
            if path.is_symlink() and path.exists():
                expect_inside(path, root, "a link", remedy)


def is_inside(path: str | Path, root: str | Path) -> bool:
    """Whether a path, with all links followed, lies in a folder."""
    try:
        return Path(path).resolve().is_relative_to(Path(root).resolve())
    except (OSError, RuntimeError, ValueError):  # a loop of links, a name that no file system takes
        return False


def _expect(shape: tuple[int, ...], most: int, what: str, path: str | Path) -> None:
    if any(int(n) < 0 for n in shape) or math.prod(int(n) for n in shape) > most:
        shown = "x".join(str(n) for n in shape)
        raise UserError(f"{path}: {shown} {what} in its header, at most {most:,} are read; export it in its own size")
