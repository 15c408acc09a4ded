"""One line before training: parameters, memory to expect, size of the data, what to change if it does not fit."""

import copy
import os
import sys

import torch
from torch import Tensor, nn

try:
    import resource
except ImportError:  # Windows
    resource = None

OPTIMIZER_COPIES = 4  # weights, gradients and Adam's two moments, in float32
GB = 1024**3


def activation_bytes(module: nn.Module, *shapes: tuple[int, ...], half: bool) -> int:
    """Bytes that autograd keeps for one forward pass over inputs of `shapes`, counted on torch's meta device."""
    kept: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        # parameters are counted elsewhere, and a tensor saved twice takes its memory once
        if not isinstance(tensor, nn.Parameter):
            kept[tensor.untyped_storage()._cdata] = tensor.numel() * tensor.element_size()
        return tensor

    shadow = copy.deepcopy(module).to("meta").train()
    inputs = [torch.zeros(shape, device="meta") for shape in shapes]
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        out = shadow(*inputs)
    del out
    return sum(kept.values()) // (2 if half else 1)


def preflight(parameters: int, trained: int, activations: int, data_bytes: int, gpu: bool, averaged: bool) -> str:
    """The line.

    Args:
        parameters: of all networks.
        trained: of those that the optimizer moves.
        activations: bytes of one training step.
        data_bytes: of the cached data in memory.
        averaged: whether an EMA copy is kept.
    """
    state = 4 * (parameters + trained * (OPTIMIZER_COPIES - 1 + averaged))
    # on a CPU the libraries and the data share the memory with the training
    peak = state + activations + (0 if gpu else data_bytes + _resident())
    available = torch.cuda.mem_get_info()[0] if gpu else _available()
    line = (
        f"{parameters / 1e6:.1f} M parameters ({trained / 1e6:.1f} M trained), about {peak / GB:.1f} GB at peak of "
        f"{available / GB:.0f} GB free, cached data {data_bytes / GB:.2f} GB"
    )
    if peak > available:
        line += "; this will not fit: lower model.batch_size, then the width of the network or dataset.volume_size"
    return line


def peak_memory() -> str:
    """The most memory that this process has held so far, and the most that torch held on a GPU."""
    peak = _peak()
    parts = [] if peak is None else [f"{peak / GB:.1f} GB"]
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        parts.append(f"{torch.cuda.max_memory_allocated() / GB:.1f} GB on the GPU")
    return ", ".join(parts) or "not known"


def out_of_memory(error: BaseException, device: torch.device) -> str:
    """The line for a device that ran out of memory: the peak that was measured, and three things to change."""
    if device.type == "cuda":
        peak, total = torch.cuda.max_memory_allocated(device), torch.cuda.get_device_properties(device).total_memory
        measured = f"{peak / GB:.1f} GB at peak of {total / GB:.0f} GB"
    else:
        measured = f"{peak_memory()} at peak"
    return (
        f"out of memory on {device}: {measured} ({str(error).splitlines()[0]}). Three things to change: (1) "
        "model.batch_size, lower, with model.gradient_accumulate_every higher for the same step; (2) "
        "model.precision=bf16-mixed; (3) the width of the network (model.dim or model.n_hiddens) or "
        "dataset.volume_size"
    )


def _peak() -> int | None:
    try:  # ru_maxrss of a started process begins at the peak of the one that started it, this does not
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
    except (OSError, StopIteration):  # not Linux
        unit = 1 if sys.platform == "darwin" else 1024
        return None if resource is None else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _resident() -> int:
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):  # not Linux
        return 0


def _available() -> int:
    try:
        with open("/proc/meminfo") as file:
            fields = dict(line.split(":", 1) for line in file)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):  # not Linux: torch cannot tell either
        return 1 << 62
