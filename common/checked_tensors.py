"""safetensors files with a CRC-32 per tensor, so that reading detects a file changed by a disk or a copy."""

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

KEY = "crc32"  # metadata key: JSON of tensor name to CRC-32 of its bytes


class DamagedFile(UserError):
    """A file that is missing or whose content does not match its checksums."""


class CheckedFile:
    """An open safetensors file that verifies each tensor against its checksum, if the file has any."""

    def __init__(self, path: str | Path, file):
        self.path, self.file = path, file
        try:
            self.sums = json.loads((file.metadata() or {}).get(KEY, "{}"))
        except ValueError as error:
            raise DamagedFile(f"{path}: unreadable checksums; delete the file, the next run makes it again") from error

    def keys(self) -> list[str]:
        """Names of the tensors."""
        return list(self.file.keys())

    def checksums(self) -> dict[str, int]:
        """Checksum of each tensor, computed if the file has none."""
        return {name: self.sums[name] if name in self.sums else crc32(self.get_tensor(name)) for name in self.keys()}

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, from the header."""
        return tuple(self.file.get_slice(name).get_shape())

    def get_tensor(self, name: str) -> Tensor:
        """One tensor; raises DamagedFile if its bytes do not match the checksum."""
        tensor = self.file.get_tensor(name)
        if name in self.sums and crc32(tensor) != self.sums[name]:
            raise DamagedFile(
                f"{self.path}: {name} does not match its checksum; delete the file, the next run makes it again"
            )
        return tensor


def crc32(tensor: Tensor) -> int:
    """CRC-32 of the bytes of a contiguous CPU tensor."""
    return zlib.crc32(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))


def save_tensors(tensors: dict[str, Tensor], path: str | Path, metadata: dict[str, str] | None = None) -> None:
    """Writes a safetensors file with the default permissions; `save_file` gives read access to the owner only."""
    path = Path(path)
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    save_file(tensors, path, metadata=metadata)
    path.chmod(mode)


def save_checked(tensors: dict[str, Tensor], path: str | Path) -> None:
    """Writes tensors with their checksums, atomically; raises OSError if the disk is full or read-only."""
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    sums = {name: crc32(tensor) for name, tensor in tensors.items()}
    try:
        with atomic_path(path) as temporary:
            save_tensors(tensors, temporary, {KEY: json.dumps(sums)})
    except SafetensorError as error:  # safetensors' error for a full disk
        raise OSError(str(error)) from error


@contextmanager
def open_checked(path: str | Path) -> Iterator[CheckedFile]:
    """Opens a file for reading single tensors; raises DamagedFile if it is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            yield CheckedFile(path, file)
    except (SafetensorError, OSError) as error:
        raise DamagedFile(f"{path}: cannot be read ({error}); delete it, the next run makes it again") from error
