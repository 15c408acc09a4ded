"""`run.json`: what is needed to repeat a run, and to explain a difference on another machine."""

import json
import sys
from datetime import datetime
from pathlib import Path

import torch

from common.environment import git_state, versions
from common.errors import UserError
from common.files import ROOT, atomic_path, sha256
from train.distributed.processes import first_process
from train.run.checkpoint_io import LAST
from train.run.run_folder import RUNS_KEY
from train.run.sweep import overrides


def write_record(folder: Path, seed: int, data_sha256: str, inputs: dict[str, str | None], checkpoint: Path | None):
    """Appends this start to `run.json`; a resumed run has several.

    Args:
        folder: of the run.
        data_sha256: hash of the content of all prepared cases and their splits.
        inputs: config keys that name checkpoints, whose SHA-256 the record keeps.
        checkpoint: that the run resumes from.
    """
    if not first_process():
        return
    script, path, config = Path(sys.argv[0]), folder / "run.json", (folder / ".hydra").resolve()
    of_clone = (ROOT / "pyproject.toml").is_file() and script.resolve().is_relative_to(ROOT)
    relative = script.resolve().relative_to(ROOT) if of_clone else script
    try:
        record = json.loads(path.read_text()) if path.is_file() else {"repeat": "", "starts": []}
        record["repeat"] = f"python {relative} --config-path {config} --config-name config"
        record["starts"].append(
            {
                "started": datetime.now().isoformat(sep=" ", timespec="seconds"),
                "command": " ".join([str(relative), *(overrides() or sys.argv[1:])]),
                "resumed_from": None if checkpoint is None else checkpoint.name,
                "seed": seed,
                "data_sha256": data_sha256,
                "inputs_sha256": {key: sha256(file) for key, file in inputs.items() if file and Path(file).is_file()},
                "git": git_state(folder),
                "versions": versions(),
                "threads": torch.get_num_threads(),
            }
        )
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(record, indent=1))
    except OSError as error:
        raise UserError(
            f"the folder of the run, {folder}, cannot be written ({error}); free space, or choose another {RUNS_KEY}"
        ) from error


def refuse_other_data(folder: Path, data_sha256: str) -> None:
    """Raises UserError if a run that is resumed began with other data than these, by its `run.json`."""
    path = folder / "run.json"
    starts = json.loads(path.read_text())["starts"] if path.is_file() else []
    if starts and starts[-1]["data_sha256"] != data_sha256:
        raise UserError(
            f"model.resume: the cases or splits of {folder} have changed, to which its scale of latents and linear "
            f"prior are fitted; restore them, or start a new run with model.init_from={folder / 'checkpoints' / LAST}"
        )


def write_results(folder: Path, figures: dict[str, float]) -> None:
    """Adds the last figures of a run, such as the validation loss, to its `run.json`."""
    path = folder / "run.json"
    if not first_process() or not path.is_file():
        return
    record = json.loads(path.read_text())
    record["results"] = {name: float(value) for name, value in sorted(figures.items())}
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1))
