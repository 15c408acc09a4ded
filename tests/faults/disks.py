"""Small disks of their own, for tests that fill them up or take the right to write away."""

import os
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(place: Path, megabytes: int):
    """A tmpfs at `place`; the test is skipped where mounting is not allowed."""
    place.mkdir(parents=True, exist_ok=True)
    done = _mount("-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(place))
    if done.returncode:
        pytest.skip(f"no small disk: mounting is not allowed here ({done.stderr.strip()})")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def read_only(place: Path) -> None:
    """From now on nothing can be written there, not even by root."""
    assert _mount("-o", "remount,ro", str(place)).returncode == 0


def fill(place: Path) -> Path:
    """A file that takes all the space that is left."""
    path = place / "filler"
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            os.fsync(file.fileno())
    return path


def _mount(*words: str) -> subprocess.CompletedProcess:
    try:
        return subprocess.run(["mount", *words], capture_output=True, text=True)
    except OSError as error:
        return subprocess.CompletedProcess(words, 1, "", str(error))
