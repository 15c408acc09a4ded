"""Checkpoints that appear whole or not at all, and that hold no code."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import CheckpointIO

from dataset.errors import UserError


class AtomicCheckpointIO(CheckpointIO):
    """Writes beside the target, syncs, then renames: a full disk or a kill leaves the last good file.

    Lightning's own goes through `$TMPDIR`, and a move from another file system is a copy onto the final name.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes `checkpoint`.

        Raises:
            UserError: where it cannot be written; what stood there before is untouched.
        """
        path = Path(path)
        beside = path.with_name(f".{path.name}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(beside, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        except (OSError, RuntimeError) as error:
            if beside.is_file():
                beside.unlink()
            raise UserError(
                f"{path}: the checkpoint cannot be written ({error}); the last good one is kept. Free space, or give "
                "another model.results_folder, then go on with model.resume=auto"
            ) from error

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = None) -> dict:
        """Weights and plain data only, whatever is asked for."""
        return torch.load(path, map_location=map_location or "cpu", weights_only=True)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Deletes a checkpoint that rotation dropped."""
        Path(path).unlink(missing_ok=True)
