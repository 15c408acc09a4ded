"""One line before training: parameters, memory to expect, size of the data, what to change if it does not fit."""

import copy
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from common.errors import UserError
from dataset.datamodule import CTDataModule
from train.distributed.processes import say
from train.run.run_folder import config_file

try:
    import resource
except ImportError:  # Windows
    resource = None

OPTIMIZER_COPIES = 4  # weights, gradients and Adam's two moments, in float32
GB = 1024**3
SHARE = 0.8  # of the free memory that `model.batch_size=auto` fills: the estimate is good to a quarter
UNKNOWN = 1 << 62


def activation_bytes(
    module: nn.Module, *shapes: tuple[int, ...], half: bool, forward: Callable = nn.Module.__call__
) -> int:
    """Bytes that autograd keeps for one forward pass over inputs of `shapes`, counted on torch's meta device.

    `forward` gets the module and its inputs, where it is not simply called.

    Of parts that are computed again in the backward pass: their inputs, and what the largest of them keeps meanwhile.
    """
    kept: dict[int, int] = {}
    again = [0]

    def keeping(into: dict[int, int]):
        def count(tensor: Tensor) -> Tensor:
            # parameters are counted elsewhere, and a tensor saved twice takes its memory once
            if not isinstance(tensor, nn.Parameter):
                into[tensor.untyped_storage()._cdata] = tensor.numel() * tensor.element_size()
            return tensor

        return torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor)

    def recomputed(part: nn.Module, x: Tensor, *inputs: Tensor) -> Tensor:
        own: dict[int, int] = {}
        kept[x.untyped_storage()._cdata] = x.numel() * x.element_size()
        with keeping(own):
            out = part(x, *inputs)
        again.append(sum(own.values()))
        return out

    shadow = copy.deepcopy(module).to("meta").train()
    for part in shadow.modules():
        if getattr(part, "gradient_checkpointing", False):
            part._gradient_checkpointing_func = recomputed
    inputs = [torch.zeros(shape, device="meta") for shape in shapes]
    with keeping(kept):
        out = forward(shadow, *inputs)
    del out
    return (sum(kept.values()) + max(again)) // (2 if half else 1)


@dataclass(frozen=True)
class MemoryNeed:
    """What a training takes.

    Args:
        parameters: of all networks.
        trained: of those that the optimizer moves.
        per_sample: bytes of activations that a training step keeps for one sample.
        data_bytes: of the cached data in memory.
        gpu: whether it is a GPU's memory; on a CPU the libraries and the data share it with the training.
        averaged: whether an EMA copy is kept.
    """

    parameters: int
    trained: int
    per_sample: int
    data_bytes: int
    gpu: bool
    averaged: bool

    def peak(self, batch_size: int) -> int:
        """Bytes at the peak of a step."""
        state = 4 * (self.parameters + self.trained * (OPTIMIZER_COPIES - 1 + self.averaged))
        return state + self.per_sample * batch_size + (0 if self.gpu else self.data_bytes + _resident())

    def line(self, batch_size: int) -> str:
        """The line, and the remedy where it does not fit."""
        peak, available = self.peak(batch_size), _free(self.gpu)
        line = (
            f"{self.parameters / 1e6:.1f} M parameters ({self.trained / 1e6:.1f} M trained), about {peak / GB:.1f} GB "
            f"at peak of {available / GB:.0f} GB free, cached data {self.data_bytes / GB:.2f} GB"
        )
        if peak > available:
            line += "; this will not fit: lower model.batch_size, then the width of the network or dataset.volume_size"
        return line

    def largest_batch(self) -> int:
        """The most samples a batch whose peak fills `SHARE` of the free memory, at least one.

        Raises:
            UserError: where the free memory is not known.
        """
        available = _free(self.gpu)
        if available == UNKNOWN:
            raise UserError("model.batch_size=auto: this system does not say how much memory is free; give a number")
        return max(1, int(SHARE * available - self.peak(0)) // self.per_sample)


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
        "model.batch_size, lower (a DDPM keeps its step by a higher model.gradient_accumulate_every); (2) "
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


def _free(gpu: bool) -> int:
    return torch.cuda.mem_get_info()[0] if gpu else _available()


def _available() -> int:
    try:
        with open("/proc/meminfo") as file:
            fields = dict(line.split(":", 1) for line in file)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):  # not Linux: torch cannot tell either
        return UNKNOWN


AUTO = "auto"


def keep_choice(model: DictConfig, folder: Path, several: bool) -> None:
    """A run that is resumed takes the number that it began with, however much memory is free now.

    Raises:
        UserError: `auto` on several devices, which could find different numbers.
    """
    path = config_file(folder)
    if model.batch_size == AUTO and several:
        raise UserError("model.batch_size=auto: for one device; give a number where several train")
    if model.batch_size == AUTO and path.is_file():
        model.batch_size = OmegaConf.load(path).model.batch_size


def settle(model: DictConfig, data: CTDataModule, need: MemoryNeed) -> None:
    """Puts the number into the config, which is saved with the run, and into the data module.

    Raises:
        UserError: where the free memory is not known.
    """
    if model.batch_size != AUTO:
        return
    model.batch_size = data.batch_size = min(need.largest_batch(), len(data.train))
    say(f"model.batch_size=auto: {model.batch_size} samples a batch")
