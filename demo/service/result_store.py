"""Folder of one run: uploads and results under random names, deleted after a set time and at exit."""

import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from demo.service.messages import RESULT_FILES


class Store:
    """One folder per result, named by a secret token.

    Args:
        folder: existing folder of this run; the store deletes old entries, and `close` deletes the folder.
        keep_seconds: time from the last change of a file or folder to its deletion.
    """

    def __init__(self, folder: Path, keep_seconds: float):
        self.folder, self.keep_seconds = Path(folder).resolve(), keep_seconds
        self.results, self.uploads = self.folder / "results", self.folder / "uploads"
        for place in (self.results, self.uploads):
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._held: set[str] = set()
        self._stop = threading.Event()
        threading.Thread(target=self._sweep_on, name="sweeper", daemon=True).start()

    @contextmanager
    def held(self) -> Iterator[tuple[str, Path]]:
        """Yields a token and its empty folder; `sweep` skips the folder meanwhile, and an error deletes it."""
        token = secrets.token_urlsafe(24)
        place = self.results / token
        place.mkdir(mode=0o700)
        self._held.add(token)
        try:
            yield token, place
        except BaseException:  # a cancelled generator ends with GeneratorExit
            shutil.rmtree(place, ignore_errors=True)
            raise
        else:
            os.utime(place)
        finally:
            self._held.discard(token)

    @contextmanager
    def kept(self, token: str) -> Iterator[None]:
        """`sweep` skips the folder of a token during the block."""
        self._held.add(token)
        try:
            yield
        finally:
            self._held.discard(token)

    def find(self, token: str, name: str) -> Path | None:
        """Returns the path of a result file; None unless token and name both exist in this run."""
        # compare with the listing first: no path is built from an unknown token
        if name not in RESULT_FILES or token not in os.listdir(self.results):
            return None
        path = self.results / token / name
        return path if path.is_file() and not path.is_symlink() else None

    def sweep(self, now: float | None = None) -> int:
        """Deletes entries older than `keep_seconds`; returns their number."""
        oldest = (time.time() if now is None else now) - self.keep_seconds
        old = [
            entry
            for entry in (*self.results.iterdir(), *self.uploads.iterdir())
            if entry.name not in self._held and _changed(entry) < oldest
        ]
        for entry in old:
            shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink(missing_ok=True)
        return len(old)

    def close(self) -> None:
        """Deletes everything."""
        self._stop.set()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _sweep_on(self) -> None:
        while not self._stop.wait(max(0.2, min(30.0, self.keep_seconds / 4))):
            self.sweep()


def _changed(entry: Path) -> float:
    """Latest modification time of an entry and its content; now if it no longer exists."""
    try:
        return max(path.lstat().st_mtime for path in (entry, *entry.rglob("*")))
    except FileNotFoundError:
        return time.time()
