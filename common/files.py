"""Atomic writing, digests, folders of results, and the newest checkpoint of a folder."""

import errno
import hashlib
import json
import logging
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import datetime
from pathlib import Path

from common.errors import UserError

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
    temporary = path.with_name(_temporary(path.name))
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(name: str) -> str:
    """A name that no other process uses: containers on a shared file system have the same numbers of processes."""
    return f"{PREFIX}{os.getpid()}-{secrets.token_hex(4)}-{name}"


def write_json(path: str | Path, content, **options) -> None:
    """Writes JSON atomically, with `options` of `json.dumps`; ValueError for NaN, which JSON does not know."""
    text = json.dumps(content, indent=1, allow_nan=False, **options)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


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


def size_line(folder: Path = Path("outputs")) -> str | None:
    """What the results and the prepared cases below a folder occupy on the disk; None without the folder."""
    if not folder.is_dir():
        return None
    whole, cache = _bytes(folder), _bytes(folder / "cache")
    prepared = (
        f", {cache / 1e9:.2f} GB of it prepared cases, which can be removed ({folder / 'cache'})" if cache else ""
    )
    return f"{folder}: {whole / 1e9:.2f} GB{prepared}"


def _bytes(folder: Path) -> int:
    """Size of the files below a folder, links not followed."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # removed meanwhile
                total += os.lstat(os.path.join(place, name)).st_size
    return total


_GIVEN: ContextVar[Path | None] = ContextVar("folder of the results of a run in a sweep", default=None)
LATEST = "latest"  # beside dated folders: a link to the newest, or a text file with its name


@contextmanager
def results_in(folder: Path | None) -> Iterator[None]:
    """`result_folder` gives `folder` in the block, if it is not None and the command names no other."""
    token = _GIVEN.set(folder)
    try:
        yield
    finally:
        _GIVEN.reset(token)


def result_folder(output: str | None, command: str, names: Iterable[str] = (), overwrite: bool = False) -> Path:
    """The folder that a command writes its results into; prints it.

    Without `output` the folder of the run in a sweep, or a new one, `outputs/<command>/<date>_<time>`, to which
    `outputs/<command>/latest` points. A given folder must hold no results of an earlier run, which have `names`
    (patterns); `overwrite` removes them. So a command calls `check_output` first, and this after it has checked and
    read its inputs.

    Raises UserError for earlier results, and for a folder that cannot be written.
    """
    try:
        new = not output and _GIVEN.get() is None
        folder = _new_folder(Path("outputs") / command) if new else Path(output or _GIVEN.get()).expanduser()
        clear(folder, names, overwrite)
        folder.mkdir(parents=True, exist_ok=True)
        if new:
            point_latest(folder)
    except OSError as error:
        raise UserError(f"output={output or folder}: cannot be written ({error.strerror}); give another") from error
    print(f"output: {folder}", flush=True)
    return folder


def check_output(output: str | Path | None, names: Iterable[str] = (), overwrite: bool = False) -> None:
    """Raises the errors of `result_folder` before the work of a command; changes nothing."""
    folder = Path(output or "outputs").expanduser()
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UserError(f"output={output or folder}: cannot be written (see {existing}); give another")
    if output:
        _earlier(folder, names, overwrite)


def visible(files: Iterable[Path]) -> list[Path]:
    """The files that are not hidden, sorted: `._name` and `.DS_Store` are not the user's."""
    return sorted(file for file in files if not file.name.startswith("."))


def clear(folder: Path, names: Iterable[str], overwrite: bool) -> None:
    """Removes files and folders of these names (patterns); UserError if there are any and `overwrite` is false."""
    for path in _earlier(folder, names, overwrite):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _earlier(folder: Path, names: Iterable[str], overwrite: bool) -> list[Path]:
    found = sorted(path for name in names for path in folder.glob(name))
    if found and not overwrite:
        raise UserError(f"{found[0]}: of an earlier run; give another folder, or overwrite=true, which removes it")
    return found


def point_latest(folder: Path) -> None:
    """Lets `latest` beside a folder point to it, as a link, or as a text file where links are not allowed."""
    target, beside = folder.parent / LATEST, folder.parent / _temporary(f"{folder.name}-{LATEST}")
    if target.is_dir() and not target.is_symlink():
        return  # a folder of the user
    try:
        os.symlink(folder.name, beside, target_is_directory=True)
    except OSError:
        beside.write_text(folder.name, encoding="utf-8")
    os.replace(beside, target)


def follow_latest(path: str) -> str:
    """A path in which the text file `latest` is replaced by the folder that it names; other texts unchanged."""
    for part in (Path(path), *Path(path).parents):
        if part.name == LATEST and part.is_file():
            return str(part.parent / part.read_text(encoding="utf-8").strip() / Path(path).relative_to(part))
    return path


def _new_folder(parent: Path) -> Path:
    """Makes a folder named by date and time; a later number if another run makes one in the same millisecond."""
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")[:-3]
    for number in range(1000):
        folder = parent / (f"{stamp}_{number}" if number else stamp)
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise FileExistsError(errno.EEXIST, "exists", str(parent / stamp))
