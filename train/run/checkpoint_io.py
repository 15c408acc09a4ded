"""Checkpoints that are written atomically, contain no code, and keep the previous one."""

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
    """Writes a temporary file beside the target, syncs and renames it; signals wait until then.

    After a full disk or a kill the last good file remains. (Lightning writes to `$TMPDIR`; moving from another file
    system copies onto the final name.) The former `last.ckpt` becomes `previous.ckpt`.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes `checkpoint`, or raises UserError and leaves an earlier file unchanged."""
        path = Path(path)
        beside = path.with_name(f".{path.name}.partial")
        with _deferred_signals():
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
                    f"{path}: the checkpoint cannot be written ({error}); the last good one is kept. Free space, or "
                    "give another folder of runs (model.results_folder), then "
                    "continue with model.resume=auto"
                ) from error
            finally:
                if beside.is_file():
                    beside.unlink()

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = None) -> dict:
        """Weights and plain data only, whatever `weights_only` says."""
        return upgrade(torch.load(path, map_location=map_location or "cpu", weights_only=True))

    def remove_checkpoint(self, path: str | Path) -> None:
        """Deletes a checkpoint."""
        Path(path).unlink(missing_ok=True)


def whole_checkpoint(path: Path) -> tuple[Path, dict]:
    """The checkpoint to resume and its header: `path`, or the previous one if `path` is damaged.

    Raises UserError if neither can be read.
    """
    try:
        return path, _checked_header(path)
    except UserError as error:
        before = path.with_name(PREVIOUS)
        if path.name != LAST or not before.is_file():
            raise
        header = _checked_header(before)
        log.warning("%s; continuing from the checkpoint before it, %s", error, before)
        return before, header


def _checked_header(path: Path) -> dict:
    """The header; compares all bytes with their checksums, which torch does not."""
    header = read(path).header
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise UserError(f"{path}: damaged, {damaged} in it does not match its checksum; copy it again")
    return header


@contextmanager
def _deferred_signals() -> Iterator[None]:
    """Raises signals that have a Python handler again after the block.

    torch's C++ writer turns an exception of a handler within `torch.save` into a failed write.
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
    """Links `path` as `target`, so that at every moment at least one of both exists."""
    beside = target.with_name(f".{target.name}.partial")
    beside.unlink(missing_ok=True)
    try:
        os.link(path, beside)
    except OSError:  # a file system without hard links: for a moment only `target` exists
        os.replace(path, target)
        return
    os.replace(beside, target)
