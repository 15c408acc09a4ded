"""Files of weights, checked before torch opens them and read without running code."""

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
    """Raises an error for an archive that unpacks to more than its file holds, or that is a program.

    `torch.save` does not compress. An archive that claims more than its own size is compressed, so that a small file
    fills the memory, or its records overlap. Any other file passes, for torch to check.

    Raises:
        ValueError: for such an archive.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError, struct.error) as error:
        raise ValueError(f"truncated or damaged ({error})") from error
    claimed, own = sum(record.file_size for record in records), Path(path).stat().st_size
    if claimed > own + SLACK:
        raise ValueError(f"an archive of {own} bytes that unpacks to {claimed}")
    names = [record.filename.partition("/")[2] for record in records]
    if any(name.startswith(PROGRAMS) for name in names):
        raise ValueError("a TorchScript program, not weights")


def read_weights(path: str | Path) -> Mapping[str, Any]:
    """Content of a `.safetensors` file, or of a file of `torch.save` with weights alone, without running code.

    Raises:
        ValueError: for a file that is missing, damaged, compressed, a program, or holds more than weights.
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
        raise ValueError(f"not a file of weights alone ({line[:200]})") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"not a file of weights alone (it holds a {type(content).__name__})")
    return content
