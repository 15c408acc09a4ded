"""`run.json`: what a run was made of, so that it can be made again, and what differs where it is made elsewhere."""

import hashlib
import json
import platform
import subprocess
import sys
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from dataset.errors import UserError
from dataset.files import atomic_path
from ddpm.checkpoint import sha256
from train.processes import first_process

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "pytorch-lightning", "diffusers", "monai", "numpy", "safetensors", "nibabel", "hydra-core")


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


def versions() -> dict[str, str]:
    """Of Python, the machine, the libraries that decide numbers, and the GPU."""
    found = {"python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "none"
    if torch.cuda.is_available():
        cudnn = torch.backends.cudnn.version()
        found |= {"gpu": torch.cuda.get_device_name(0), "cuda": str(torch.version.cuda), "cudnn": str(cudnn)}
    return found


def git_state(folder: Path) -> dict | None:
    """Commit of the code, and where it was changed since: the changes, in `changes.patch` in the folder.

    None outside a git checkout.
    """
    commit, changes = _git("rev-parse", "HEAD"), _git("diff", "HEAD")
    if commit is None or changes is None:
        return None
    state = {"commit": commit.strip(), "changed": bool(changes)}
    if changes:
        state["changes_sha256"] = hashlib.sha256(changes.encode()).hexdigest()
        (folder / "changes.patch").write_text(changes)
    unknown = _git("ls-files", "--others", "--exclude-standard", "--", "*.py", "*.yaml") or ""
    return {**state, "files_not_in_git": unknown.split()}


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
