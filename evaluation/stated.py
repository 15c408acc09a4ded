"""What a result was made with, kept beside it for the report: the composed config, and the versions of libraries."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from dataset.files import atomic_path

PACKAGES = ("numpy", "pandas", "scipy", "scikit-learn", "diffusers", "monai", "torchmetrics", "pytorch-lightning")


def keep_config(cfg: DictConfig, folder: str | Path) -> Path:
    """Writes `<folder>/.hydra/config.yaml`, which `--config-path <folder>/.hydra --config-name config` repeats."""
    path = Path(folder) / ".hydra" / "config.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        Path(temporary).write_text(OmegaConf.to_yaml(cfg), encoding="utf-8")
    return path


def machine() -> dict:
    """Plain JSON: processor, cores, threads, and the versions of Python and of the libraries that decide numbers."""
    return {
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: _version(name) for name in PACKAGES},
    }


def _processor() -> str:
    """Its name where the system tells it (Linux), else its architecture."""
    table = Path("/proc/cpuinfo")
    lines = table.read_text(errors="replace").splitlines() if table.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
