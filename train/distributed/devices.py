"""Chooses the training devices and prints them first, so that no run uses a CPU unnoticed."""

import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from common.errors import UserError
from train.distributed.processes import first_process, print_once


def choose_devices(gpus: int | None, accelerator: str = "auto", devices: str | int | list = "auto") -> dict:
    """`accelerator` and `devices` of the Trainer; prints them in one line.

    Args:
        gpus: `model.gpus`, the number of devices; 0 = CPU; None = all, or what the trainer's own keys say.
        accelerator: `trainer.accelerator`.
        devices: `trainer.devices`: number per node, or a list of indices; with `accelerator=cpu` the number of
            processes.

    Raises UserError for a negative number, an index without a GPU, contradictory keys, or an NVIDIA driver that this
    torch cannot use.
    """
    if not first_process():  # the first process prints the warnings of all
        logging.getLogger().setLevel(logging.ERROR)
    if gpus is not None:
        chosen = _choose(gpus)
        for key, value in (("accelerator", accelerator), ("devices", devices)):
            if value not in ("auto", chosen[key]):
                raise UserError(
                    f"trainer.{key}={value} contradicts model.gpus={gpus}, which means {key}={chosen[key]}; give one "
                    "of them"
                )
        return chosen
    if accelerator == "cpu":
        return _cpu(1 if devices == "auto" else _count(devices))
    if devices == "auto":
        return _choose(None)
    chosen = _choose(_count(devices), "trainer.devices")
    if chosen["accelerator"] == "cpu" or isinstance(devices, str | int):
        return chosen
    found = torch.cuda.device_count()
    if any(index not in range(found) for index in devices):
        raise UserError(f"trainer.devices={list(devices)}: {found} GPUs found; give indices from 0 to {found - 1}")
    return {**chosen, "devices": list(devices)}


def own_device(devices: dict) -> torch.device:
    """The device of this process among `devices` of the Trainer, which `cuda` without a number means from now on.

    Raises UserError if this machine has more processes than devices.
    """
    if devices["accelerator"] == "cpu":
        return torch.device("cpu")
    chosen = devices["devices"]
    indices = range(chosen) if isinstance(chosen, int) else chosen
    rank = int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0) if len(indices) > 1 else 0
    if rank >= len(indices):
        raise UserError(
            f"trainer.devices={chosen}: this is process {rank + 1} of this machine; start as many processes on each "
            "as it has devices (Slurm: --ntasks-per-node)"
        )
    device = torch.device("cuda", indices[rank])
    torch.cuda.set_device(device)
    return device


def many(devices: dict, num_nodes: int = 1) -> bool:
    """Whether these `devices` of the Trainer on `num_nodes` machines are more than one process."""
    return int(num_nodes) > 1 or _count(devices["devices"]) > 1


def _count(devices: str | int | Sequence) -> int:
    if isinstance(devices, Sequence) and not isinstance(devices, str):
        return len(devices)
    if not str(devices).isdigit() or int(devices) < 1:
        raise UserError(f"trainer.devices={devices}: give a number, or a list of indices")
    return int(devices)


def _choose(gpus: int | None, key: str = "model.gpus") -> dict:
    if gpus is not None and (int(gpus) != gpus or gpus < 0):
        raise UserError(f"{key}={gpus}: give the number of devices, 0 for the CPU")
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus != 0 and found == 0 and _driver_present():
        raise UserError(
            f"an NVIDIA driver is installed, but torch {torch.__version__} cannot use it: install the torch build "
            "that fits the driver (pytorch.org, 'Get started'), or train on the CPU with model.gpus=0"
        )
    asked = found if gpus is None else int(gpus)
    note = f" ({key}={asked}, {found} found)" if asked > found else ""
    if note and not found:
        note = f" ({key}={asked}, but there is no GPU; the time it takes is printed after the first batches)"
    used = min(asked, found)
    if used == 0:
        return _cpu(1, note)
    print_once(f"device: {used} × {torch.cuda.get_device_name(0)}{note}")
    return {"accelerator": "gpu", "devices": used}


def _cpu(processes: int, note: str = "") -> dict:
    several = f"{processes} processes, " if processes > 1 else ""
    print_once(f"device: CPU, {several}{torch.get_num_threads()} threads{note}")
    return {"accelerator": "cpu", "devices": processes}


def _driver_present() -> bool:
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None
