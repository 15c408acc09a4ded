"""A lock that lets one process at a time write in a folder; the system releases it when the process ends."""

import atexit
import errno
import os
from pathlib import Path

from filelock import FileLock, Timeout

from common.errors import UserError

LOCK = ".running"

_held: dict[str, FileLock] = {}


def hold(folder: str | Path, key: str) -> None:
    """Locks a folder for this process until it ends; a second call of the same process changes nothing.

    Raises UserError, with the config key of the folder, if another process holds the lock or the folder cannot be
    written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = str(folder.resolve() / LOCK)
        lock = _held.get(path) or FileLock(path, timeout=0)
        if not lock.is_locked:
            lock.acquire()
            Path(f"{path}.by").write_text(f"process {os.getpid()}")
            atexit.register(release, folder)
        _held[path] = lock
    except Timeout as error:
        owner = Path(f"{path}.by")
        name = owner.read_text() if owner.is_file() else "another process"
        raise UserError(
            f"{folder}: {name} is writing here; wait for it, or give another {key} for a run beside it"
        ) from error
    except OSError as error:
        remedy = "free space there, or choose another" if error.errno == errno.ENOSPC else "choose another"
        raise UserError(f"{key}={folder}: cannot be written ({error.strerror or error}); {remedy}") from error


def release(folder: str | Path) -> None:
    """Unlocks a folder before the process ends."""
    path = str(Path(folder).resolve() / LOCK)
    lock = _held.pop(path, None)
    if lock is not None:
        Path(f"{path}.by").unlink(missing_ok=True)
        lock.release()
