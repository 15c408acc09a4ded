"""Weight files, checked before torch opens them and read without running code."""

import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

SLACK = 1 << 20  # bytes for the names and records of the archive
# Exceptions of torch's loader for truncated or damaged files
DAMAGED = (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, OSError, ValueError, KeyError,
           TypeError, AttributeError, IndexError, AssertionError, MemoryError, OverflowError,
           NotImplementedError)  # fmt: skip
PROGRAMS = ("constants.pkl", "code/")  # of a TorchScript archive, whose loading runs code


def expect_stored(path: str | Path) -> None:
    """Raises a `ValueError` for a zip archive that unpacks to more than its own size, or that is a program.

    `torch.save` does not compress: a larger archive is compressed, to fill the memory, or its records overlap.
    """
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError, struct.error) as error:
        raise ValueError(f"truncated or damaged ({error})") from error
    claimed, own = sum(record.file_size for record in records), Path(path).stat().st_size
    if claimed > own + SLACK:
        raise ValueError(f"an archive of {own} bytes that unpacks to {claimed}")
    if any(record.filename.partition("/")[2].startswith(PROGRAMS) for record in records):
        raise ValueError("a TorchScript program, not weights")


def read_weights(path: str | Path) -> Mapping[str, Any]:
    """Content of a `.safetensors` file, or of a file of `torch.save` with weights alone, without running code.

    Raises a `ValueError` for a file that is missing, damaged, compressed, a program, or holds more than weights.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError("no such file")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"truncated or damaged ({error})") from error
    expect_stored(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except DAMAGED as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        kind = "not a file of weights alone" if isinstance(error, pickle.UnpicklingError) else "truncated or damaged"
        raise ValueError(f"{kind} ({line[:200]})") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"not a file of weights alone (it holds a {type(content).__name__})")
    return content
