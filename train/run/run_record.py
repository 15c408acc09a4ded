"""`run.json`: what a run was made of, so that it can be made again, and what differs where it is made elsewhere."""

import json
import sys
from datetime import datetime
from pathlib import Path

import torch

from common.environment import git_state, versions
from common.errors import UserError
from common.files import ROOT, atomic_path, sha256
from train.distributed.processes import first_process


def write_record(folder: Path, seed: int, data_sha256: str, inputs: dict[str, str | None], checkpoint: Path | None):
    """Adds this start to `run.json`; a resumed run has several.

    Args:
        folder: of the run.
        data_sha256: hash of the content of all prepared cases and their splits.
        inputs: config keys that name checkpoints; their SHA-256 is kept.
        checkpoint: that the run goes on from.

    Raises:
        UserError: if the folder cannot be written.
    """
    if not first_process():
        return
    try:
        _write(folder, seed, data_sha256, inputs, checkpoint)
    except OSError as error:
        raise UserError(
            f"the folder of the run, {folder}, cannot be written ({error}); free space, or choose "
            "another by model.results_folder (of a VQ-GAN model.default_root_dir)"
        ) from error


def _write(folder: Path, seed: int, data_sha256: str, inputs: dict[str, str | None], checkpoint: Path | None) -> None:
    script = Path(sys.argv[0])
    relative = script.resolve().relative_to(ROOT) if script.resolve().is_relative_to(ROOT) else script
    start = {
        "started": datetime.now().isoformat(sep=" ", timespec="seconds"),
        "command": " ".join([str(relative), *sys.argv[1:]]),
        "resumed_from": None if checkpoint is None else checkpoint.name,
        "seed": seed,
        "data_sha256": data_sha256,
        "inputs_sha256": {key: sha256(path) for key, path in inputs.items() if path and Path(path).is_file()},
        "git": git_state(folder),
        "versions": versions(),
        "threads": torch.get_num_threads(),
    }
    path = folder / "run.json"
    record = json.loads(path.read_text()) if path.is_file() else {"repeat": "", "starts": []}
    config = (folder / ".hydra").resolve()
    record["repeat"] = f"python {relative} --config-path {config} --config-name config"
    record["starts"].append(start)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1))
