"""One run at a time in a folder: the second is refused, and a run that was killed leaves no lock behind."""

import atexit
import errno
import os
from pathlib import Path

from filelock import FileLock, Timeout

from common.errors import UserError

LOCK = ".running"

_held: dict[str, FileLock] = {}  # until this process ends; the system then takes them back, also after kill -9


def hold(folder: str | Path, key: str) -> None:
    """Takes a folder for this process; one that has it already keeps it.

    Args:
        key: of the config that names the folder, for the message.

    Raises:
        UserError: if another process has it, or the folder cannot be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        place = str(folder.resolve() / LOCK)
        lock = _held.get(place) or FileLock(place, timeout=0)
        if not lock.is_locked:
            lock.acquire()
            Path(f"{place}.by").write_text(f"process {os.getpid()}")
            atexit.register(release, folder)
        _held[place] = lock
    except Timeout as error:
        other = Path(f"{place}.by")
        who = other.read_text() if other.is_file() else "another process"
        raise UserError(
            f"{folder}: {who} is writing here; wait for it, or give another {key} for a run beside it"
        ) from error
    except OSError as error:
        remedy = "free space there, or choose another" if error.errno == errno.ENOSPC else "choose another"
        raise UserError(f"{key}={folder}: cannot be written ({error.strerror or error}); {remedy}") from error


def release(folder: str | Path) -> None:
    """Gives a folder back before the process ends."""
    place = str(Path(folder).resolve() / LOCK)
    lock = _held.pop(place, None)
    if lock is not None:
        Path(f"{place}.by").unlink(missing_ok=True)
        lock.release()
