"""Files of weights: what torch's zip archives may be before torch opens one, and reading them without running code."""

import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

SLACK = 1 << 20  # bytes: names and records of the archive itself
# What torch's loader raises on files that are cut off or damaged, each for another place in the file.
DAMAGED = (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, OSError, ValueError, KeyError,
           TypeError, AttributeError, IndexError, AssertionError, MemoryError, OverflowError,
           NotImplementedError)  # fmt: skip
PROGRAMS = ("constants.pkl", "code/")  # a TorchScript archive: loading it runs what it holds


def expect_stored(path: str | Path) -> None:
    """Refuses an archive that unpacks to more than its file holds, or that is a program.

    `torch.save` stores without compressing. An archive that claims more than its own size is packed (a small file
    fills the memory), or lets many records share one place. A file that is no archive passes: torch tells what it is.

    Raises:
        ValueError: saying what it is.
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
    """What a `.safetensors` file, or a file of `torch.save` with nothing but weights, holds; no code is run.

    Raises:
        ValueError: a file that is missing, damaged, packed, a program, or holds more than weights.
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
