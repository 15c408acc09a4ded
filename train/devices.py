"""Which device trains: said first, and never a CPU by accident."""

import shutil
from pathlib import Path

import torch

from dataset.errors import UserError


def choose_devices(gpus: int | None, accelerator: str = "auto", devices: str | int = "auto") -> dict:
    """`accelerator` and `devices` of the Trainer for `model.gpus`, and one line on stdout that says which.

    Args:
        gpus: number of devices; 0 for the CPU; None for all there are, or what the trainer's own keys say.
        accelerator: `trainer.accelerator`.
        devices: `trainer.devices`.

    Raises:
        UserError: for a negative number, keys that contradict each other, or an NVIDIA driver that this torch cannot
            use.
    """
    chosen = _choose(gpus if (accelerator, devices) == ("auto", "auto") or gpus is not None else 0)
    for key, own in (("accelerator", accelerator), ("devices", devices)):
        if own != "auto" and gpus is not None and own != chosen[key]:
            raise UserError(
                f"trainer.{key}={own} contradicts model.gpus={gpus}, which means {key}={chosen[key]}; give one of them"
            )
        if own != "auto":
            chosen[key] = own
    return chosen


def _choose(gpus: int | None) -> dict:
    if gpus is not None and (int(gpus) != gpus or gpus < 0):
        raise UserError(f"model.gpus={gpus}: give the number of devices, 0 for the CPU")
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus != 0 and there == 0 and _driver_present():
        raise UserError(
            f"an NVIDIA driver is installed, but torch {torch.__version__} cannot use it: install the torch build "
            "that fits the driver (pytorch.org, 'Get started'); model.gpus=0 trains on the CPU all the same"
        )
    wanted = there if gpus is None else int(gpus)
    used = min(wanted, there)
    note = f" (model.gpus={wanted} asked for, {there} there)" if wanted > there else ""
    if used == 0:
        print(f"device: CPU, {torch.get_num_threads()} threads{note}", flush=True)
        return {"accelerator": "cpu", "devices": 1}
    print(f"device: {used} × {torch.cuda.get_device_name(0)}{note}", flush=True)
    return {"accelerator": "gpu", "devices": used}


def _driver_present() -> bool:
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None
