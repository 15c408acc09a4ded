"""The environment of a result, stored beside it: config, hardware, library versions and git state; free memory."""

import hashlib
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from common.files import ROOT, atomic_path

PACKAGES = ("torch", "pytorch-lightning", "diffusers", "monai", "torchmetrics", "safetensors", "nibabel", "hydra-core")
PACKAGES += ("numpy", "pandas", "scipy", "scikit-learn")
UNKNOWN = 1 << 62  # bytes of free memory where the system does not say


def save_config(cfg: DictConfig, folder: str | Path) -> Path:
    """Writes `<folder>/.hydra/config.yaml`, which `--config-path <folder>/.hydra --config-name config` repeats."""
    path = Path(folder) / ".hydra" / "config.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        Path(temporary).write_text(OmegaConf.to_yaml(cfg), encoding="utf-8")
    return path


def machine() -> dict:
    """Hardware, threads and the versions of Python and of the numerical libraries, as plain JSON."""
    table = Path("/proc/cpuinfo")
    lines = table.read_text(errors="replace").splitlines() if table.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.machine(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def versions() -> dict[str, str]:
    """Versions of Python, the numerical libraries, the platform and the GPU."""
    found = {"python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}
    found |= {package: version(package) for package in PACKAGES}
    if torch.cuda.is_available():
        cudnn = torch.backends.cudnn.version()
        found |= {"gpu": torch.cuda.get_device_name(0), "cuda": str(torch.version.cuda), "cudnn": str(cudnn)}
    return found


def git_state(folder: Path) -> dict | None:
    """Commit and changes of the code, with the diff in `changes.patch` in `folder`; None outside a git checkout."""
    if not (ROOT / ".git").exists():  # an installed copy; git would find a repository around it
        return None
    commit, changes = _git("rev-parse", "HEAD"), _git("diff", "HEAD")
    if commit is None or changes is None:
        return None
    state = {"commit": commit.strip(), "changed": bool(changes)}
    if changes:
        state["changes_sha256"] = hashlib.sha256(changes.encode()).hexdigest()
        (folder / "changes.patch").write_text(changes)
    unknown = _git("ls-files", "--others", "--exclude-standard", "--", "*.py", "*.yaml") or ""
    return {**state, "files_not_in_git": unknown.split()}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def free_memory() -> int:
    """Bytes that new data can take, with those that the system only caches; `UNKNOWN` where it does not say."""
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):  # not Linux
        return UNKNOWN
