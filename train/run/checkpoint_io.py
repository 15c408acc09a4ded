"""Checkpoints that appear whole or not at all, that hold no code, and of which the one before is kept."""

import logging
import os
import signal
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import CheckpointIO

from common.errors import UserError
from ddpm.checkpoint.read import read
from ddpm.checkpoint.upgrade import upgrade

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"

log = logging.getLogger(__name__)


class AtomicCheckpointIO(CheckpointIO):
    """Writes beside the target, syncs, then renames: a full disk or a kill leaves the last good file. Signals wait.

    Lightning's own goes through `$TMPDIR`, and a move from another file system is a copy onto the final name. What
    was `last.ckpt` before becomes `previous.ckpt`: a disk that loses blocks later on costs one checkpoint, not all.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes `checkpoint`.

        Raises:
            UserError: where it cannot be written; what stood there before is untouched.
        """
        with _signals_wait():
            self._write(checkpoint, Path(path))

    @staticmethod
    def _write(checkpoint: dict[str, Any], path: Path) -> None:
        beside = path.with_name(f".{path.name}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(beside, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            if path.name == LAST and path.exists():
                _keep(path, path.with_name(PREVIOUS))
            os.replace(beside, path)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"{path}: the checkpoint cannot be written ({error}); the last good one is kept. Free space, or give "
                "another folder of runs (model.results_folder, of a VQ-GAN model.default_root_dir), then go on with "
                "model.resume=auto"
            ) from error
        finally:
            if beside.is_file():
                beside.unlink()

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = None) -> dict:
        """Weights and plain data only, whatever is asked for."""
        return upgrade(torch.load(path, map_location=map_location or "cpu", weights_only=True))

    def remove_checkpoint(self, path: str | Path) -> None:
        """Deletes a checkpoint that rotation dropped."""
        Path(path).unlink(missing_ok=True)


def whole_checkpoint(path: Path) -> tuple[Path, dict]:
    """A checkpoint that can be gone on from, and its header: `path`, or where it is damaged the one before it.

    Raises:
        UserError: if neither can be read.
    """
    try:
        return path, _checked_header(path)
    except UserError as error:
        before = path.with_name(PREVIOUS)
        if path.name != LAST or not before.is_file():
            raise
        header = _checked_header(before)
        log.warning("%s; going on from the checkpoint before it, %s", error, before)
        return before, header


def _checked_header(path: Path) -> dict:
    """The header of a checkpoint all of whose bytes are those that were written (torch itself does not look)."""
    header = read(path).header
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise UserError(f"{path}: damaged, {damaged} in it does not match its checksum; copy it again")
    return header


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Signals with a handler in Python are raised again behind the block.

    An exception that a handler raises within `torch.save` comes out as a failed write: its C++ writer says so itself.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    handlers = {n: signal.getsignal(n) for n in signal.valid_signals() if callable(signal.getsignal(n))}
    for number in handlers:
        signal.signal(number, lambda number, frame: received.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in dict.fromkeys(received):
            signal.raise_signal(number)


def _keep(path: Path, target: Path) -> None:
    """`path` under the name `target` too, so that at every moment one of both is there."""
    beside = target.with_name(f".{target.name}.partial")
    beside.unlink(missing_ok=True)
    try:
        os.link(path, beside)
    except OSError:  # a file system without hard links: for a moment only `target` is there
        os.replace(path, target)
        return
    os.replace(beside, target)
