"""Which device trains: said first, and never a CPU by accident."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from common.errors import UserError
from train.distributed.processes import quiet_unless_first, say


def choose_devices(gpus: int | None, accelerator: str = "auto", devices: str | int | list = "auto") -> dict:
    """`accelerator` and `devices` of the Trainer for `model.gpus`, and one line on stdout that says which.

    Args:
        gpus: number of devices; 0 for the CPU; None for all there are, or what the trainer's own keys say.
        accelerator: `trainer.accelerator`.
        devices: `trainer.devices`: how many on each node, or which; with `accelerator=cpu` the number of processes.

    Raises:
        UserError: for a negative number, keys that contradict each other, or an NVIDIA driver that this torch cannot
            use.
    """
    quiet_unless_first()
    if gpus is not None:
        chosen = _choose(gpus)
        for key, own in (("accelerator", accelerator), ("devices", devices)):
            if own != "auto" and own != chosen[key]:
                raise UserError(
                    f"trainer.{key}={own} contradicts model.gpus={gpus}, which means {key}={chosen[key]}; give one of "
                    "them"
                )
        return chosen
    if accelerator == "cpu":
        count = 1 if devices == "auto" else _count(devices)
        return _cpu(count)
    if devices == "auto":
        return _choose(None)
    chosen = _choose(_count(devices), "trainer.devices")
    if chosen["accelerator"] == "cpu":
        return chosen
    return {**chosen, "devices": devices if isinstance(devices, Sequence) else chosen["devices"]}


def many(devices: dict, num_nodes: int = 1) -> bool:
    """Whether these `devices` of the Trainer, on so many machines, are more than one process."""
    return int(num_nodes) > 1 or _count(devices["devices"]) > 1


def _count(devices: str | int | Sequence) -> int:
    if isinstance(devices, Sequence) and not isinstance(devices, str):
        return len(devices)
    if not str(devices).isdigit() or int(devices) < 1:
        raise UserError(f"trainer.devices={devices}: give how many, or a list of them")
    return int(devices)


def _choose(gpus: int | None, key: str = "model.gpus") -> dict:
    if gpus is not None and (int(gpus) != gpus or gpus < 0):
        raise UserError(f"{key}={gpus}: give the number of devices, 0 for the CPU")
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus != 0 and there == 0 and _driver_present():
        raise UserError(
            f"an NVIDIA driver is installed, but torch {torch.__version__} cannot use it: install the torch build "
            "that fits the driver (pytorch.org, 'Get started'); model.gpus=0 trains on the CPU all the same"
        )
    wanted = there if gpus is None else int(gpus)
    used = min(wanted, there)
    note = f" ({key}={wanted} asked for, {there} there)" if wanted > there else ""
    if used == 0:
        return _cpu(1, note)
    say(f"device: {used} × {torch.cuda.get_device_name(0)}{note}")
    return {"accelerator": "gpu", "devices": used}


def _cpu(processes: int, note: str = "") -> dict:
    several = f"{processes} processes, " if processes > 1 else ""
    say(f"device: CPU, {several}{torch.get_num_threads()} threads{note}")
    return {"accelerator": "cpu", "devices": processes}


def _driver_present() -> bool:
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None
