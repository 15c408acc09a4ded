"""Tensors on disk with a checksum each: a file that a disk or a copy has changed is noticed when it is read."""

import json
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from common.errors import UserError
from common.files import atomic_path

KEY = "crc32"  # of the metadata: JSON of tensor name to CRC-32 of its bytes


class DamagedFile(UserError):
    """A file whose content is not what was written, or that is gone."""


class CheckedFile:
    """An opened safetensors file whose tensors are compared with their checksums as they are read.

    A file of before there were checksums is taken as it is.
    """

    def __init__(self, path: str | Path, file):
        self.path, self.file = path, file
        try:
            self.sums = json.loads((file.metadata() or {}).get(KEY, "{}"))
        except ValueError as error:
            raise DamagedFile(f"{path}: its checksums cannot be read; delete the file, it is made again") from error

    def keys(self) -> list[str]:
        """Names of the tensors."""
        return list(self.file.keys())

    def checksums(self) -> dict[str, int]:
        """Of all tensors; those of a file without any are made now."""
        return {name: self.sums[name] if name in self.sums else crc32(self.get_tensor(name)) for name in self.keys()}

    def shape(self, name: str) -> tuple[int, ...]:
        """Of one tensor, from the header."""
        return tuple(self.file.get_slice(name).get_shape())

    def get_tensor(self, name: str) -> Tensor:
        """One tensor.

        Raises:
            DamagedFile: if its bytes are not those that were written.
        """
        tensor = self.file.get_tensor(name)
        if name in self.sums and crc32(tensor) != self.sums[name]:
            raise DamagedFile(f"{self.path}: {name} does not match its checksum; delete the file, it is made again")
        return tensor


def crc32(tensor: Tensor) -> int:
    """CRC-32 of the bytes of a contiguous CPU tensor."""
    return zlib.crc32(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))


def save_tensors(tensors: dict[str, Tensor], path: str | Path, metadata: dict[str, str] | None = None) -> None:
    """safetensors' `save_file` with the permissions of any new file: its own are the owner's alone since 0.8.

    A cache or an export that colleagues share has to be readable for them.
    """
    path = Path(path)
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    save_file(tensors, path, metadata=metadata)
    path.chmod(mode)


def save_checked(tensors: dict[str, Tensor], path: str | Path) -> None:
    """Writes tensors, whole or not at all, with their checksums.

    Raises:
        OSError: where the disk is full or cannot be written.
    """
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    sums = {name: crc32(tensor) for name, tensor in tensors.items()}
    try:
        with atomic_path(path) as temporary:
            save_tensors(tensors, temporary, {KEY: json.dumps(sums)})
    except SafetensorError as error:  # what it makes of a full disk
        raise OSError(str(error)) from error


@contextmanager
def open_checked(path: str | Path) -> Iterator[CheckedFile]:
    """A file of which single tensors are read.

    Raises:
        DamagedFile: if the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            yield CheckedFile(path, file)
    except (SafetensorError, OSError) as error:
        raise DamagedFile(f"{path}: cannot be read ({error}); delete it, the next run builds it again") from error
