"""Files that are either whole or not there: written beside their target, then renamed."""

import errno
import hashlib
import logging
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent  # of the repository
PREFIX = ".tmp-"
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # errors that no other file of the folder will escape
STALE_SECONDS = 24 * 3600.0  # no single file takes a day to write

log = logging.getLogger(__name__)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path with the same endings in the same folder; it replaces `path` if the block succeeds.

    Beside the target, because a rename is atomic only within one file system; and on the disk before it is renamed,
    because after a power failure a name may otherwise stand for an empty file.
    """
    path = Path(path)
    temporary = path.with_name(f"{PREFIX}{os.getpid()}-{path.name}")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_stale(folder: str | Path) -> int:
    """Removes what killed processes have left half written; returns how many files. Fresh ones may be in use."""
    gone = 0
    for file in Path(folder).glob(f"{PREFIX}*"):
        try:
            if time.time() - file.stat().st_mtime > STALE_SECONDS:
                file.unlink()
                gone += 1
        except OSError:  # another process was quicker
            log.debug("%s is gone already", file)
    return gone


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: str | Path) -> str:
    """Hash of a file, for the protocol of a result; of a folder, that of its files' names and hashes."""
    if Path(path).is_dir():
        files = sorted(file for file in Path(path).rglob("*") if file.is_file())
        named = "".join(f"{file.relative_to(path).as_posix()} {sha256(file)}\n" for file in files)
        return hashlib.sha256(named.encode()).hexdigest()
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file) -> str:  # Python 3.10
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


def newest_checkpoint(folder: str | Path) -> Path | None:
    """The `last.ckpt` written most recently anywhere under a folder, or None."""
    return newest(path for path in Path(folder).glob("**/last.ckpt") if path.is_file())


def newest(files: Iterable[Path]) -> Path | None:
    """The file written most recently, or None if there is none."""
    return max(files, key=lambda file: file.stat().st_mtime_ns, default=None)
