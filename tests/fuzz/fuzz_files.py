"""Damaged copies of valid files: bytes changed, truncated, repeated or inserted, header numbers set to extremes."""

import os
import struct
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from common.errors import UserError

CORPUS = Path(__file__).parent / "corpus"
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "60"))  # more search; the corpus keeps what breaks
LONG = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
)
EXTREMES = [
    b"\xff" * 4, b"\x00" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x80\x00\x00\x00",
    struct.pack("<f", float("nan")), struct.pack("<f", float("inf")), struct.pack("<f", -1e38), struct.pack("<h", -1),
    b"\xff\xff", b"\xff\x7f", b"\x00", b"\xff", b"\x00\x00",
]  # fmt: skip


@st.composite
def damaged(draw, *seeds: bytes, header: int | None = None) -> bytes:
    """One of `seeds` with one to six changes; `header`: most of them fall into so many first bytes."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 6))):
        end = len(data) if header is None or draw(st.integers(0, 3)) == 0 else min(header, len(data))
        at = draw(st.integers(0, max(0, end - 1)))
        kind = draw(st.sampled_from(("set", "extreme", "cut", "put", "double", "drop")))
        if kind == "set" and data:
            data[at] = draw(st.integers(0, 255))
        elif kind == "extreme":
            piece = draw(st.sampled_from(EXTREMES))
            data[at : at + len(piece)] = piece
        elif kind == "cut" and draw(st.booleans()):
            del data[at:]
        elif kind == "put":
            data[at:at] = draw(st.binary(min_size=1, max_size=8))
        elif kind == "double":
            data[at:at] = data[at : at + draw(st.integers(1, 64))]
        elif kind == "drop":
            del data[at : at + draw(st.integers(1, 16))]
    return bytes(data)


def refused_or(read: Callable[[Path], object], path: Path, data: bytes | None = None) -> object | None:
    """What `read` makes of a file; None where it refuses it as a reader must: in one line that names the file."""
    if data is not None:
        path.write_bytes(data)
    try:
        return read(path)
    except UserError as error:
        line = str(error)
        assert "\n" not in line and len(line) < 1200 and path.name in line, line
        return None


def kept(kind: str) -> list[Path]:
    """Files of the corpus that once broke a reader."""
    return sorted(file for file in (CORPUS / kind).iterdir() if not file.name.startswith("."))
