"""Atomic writing, digests, and the newest checkpoint of a folder."""

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
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # errors that concern every file of the folder
STALE_SECONDS = 24 * 3600.0  # no single file takes longer to write

log = logging.getLogger(__name__)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path in the same folder with the same suffix, which replaces `path` if the block succeeds.

    The file is synced before the rename: otherwise a power failure can leave an empty file under the final name.
    """
    path = Path(path)
    temporary = path.with_name(f"{PREFIX}{os.getpid()}-{path.name}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_stale(folder: str | Path) -> int:
    """Removes the temporary files of killed processes and returns their number; recent ones may be in use."""
    removed = 0
    for file in Path(folder).glob(f"{PREFIX}*"):
        try:
            if time.time() - file.stat().st_mtime > STALE_SECONDS:
                file.unlink()
                removed += 1
        except OSError:
            log.debug("%s: another process removed it first", file)
    return removed


def sha256(path: str | Path) -> str:
    """SHA-256 of a file, or of the names and hashes of the files in a folder."""
    if Path(path).is_dir():
        files = sorted(file for file in Path(path).rglob("*") if file.is_file())
        lines = (f"{file.relative_to(path).as_posix()} {sha256(file)}\n" for file in files)
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def newest_checkpoint(folder: str | Path) -> Path | None:
    """The most recently written `last.ckpt` below a folder, or None."""
    return newest(path for path in Path(folder).glob("**/last.ckpt") if path.is_file())


def newest(files: Iterable[Path]) -> Path | None:
    """The most recently written file, or None."""
    return max(files, key=lambda file: file.stat().st_mtime_ns, default=None)
