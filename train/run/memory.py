"""Estimates the memory of a training from its network, for a line before training and `model.batch_size=auto`."""

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from common.environment import UNKNOWN, free_memory
from common.errors import UserError
from dataset.datamodule import CTDataModule
from train.distributed.processes import print_once
from train.run.process_memory import peak_bytes
from train.run.run_folder import config_file

OPTIMIZER_COPIES = 4  # weights, gradients and Adam's two moments, in float32
GB = 1024**3
SHARE = 0.8  # of the free memory that `model.batch_size=auto` fills; the estimate is within a quarter of the peak
AUTO = "auto"


def activation_bytes(
    module: nn.Module, *shapes: tuple[int, ...], half: bool, forward: Callable = nn.Module.__call__
) -> int:
    """Bytes that autograd keeps for one forward pass over inputs of `shapes`, counted on torch's meta device.

    With gradient checkpointing, a part counts with its inputs, and the largest part with its own activations as well.

    Args:
        half: whether activations have 16 bits.
        forward: called with the module and its inputs.
    """
    kept: dict[int, int] = {}
    recomputed_bytes = [0]

    def keeping(into: dict[int, int]):
        def count(tensor: Tensor) -> Tensor:
            # MemoryNeed counts parameters; a tensor that is saved twice takes its memory once
            if not isinstance(tensor, nn.Parameter):
                into[tensor.untyped_storage()._cdata] = tensor.numel() * tensor.element_size()
            return tensor

        return torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor)

    def recomputed(part: nn.Module, x: Tensor, *inputs: Tensor) -> Tensor:
        own: dict[int, int] = {}
        kept[x.untyped_storage()._cdata] = x.numel() * x.element_size()
        with keeping(own):
            out = part(x, *inputs)
        recomputed_bytes.append(sum(own.values()))
        return out

    shadow = copy.deepcopy(module).to("meta").train()
    for part in shadow.modules():
        if getattr(part, "gradient_checkpointing", False):
            part._gradient_checkpointing_func = recomputed
    with keeping(kept):
        _ = forward(shadow, *(torch.zeros(shape, device="meta") for shape in shapes))
    return (sum(kept.values()) + max(recomputed_bytes)) // (2 if half else 1)


@dataclass(frozen=True)
class MemoryNeed:
    """Memory of a training.

    Args:
        parameters: number in all networks.
        trained: number that the optimizer updates.
        per_sample: bytes of activations per sample in a training step.
        data_bytes: of the cached data in memory.
        gpu: whether it is the memory of a GPU; on a CPU the libraries and the data share it with the training.
        averaged: whether the run keeps an EMA copy.
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
        """The line before training, with the remedy if the training does not fit."""
        peak, available = self.peak(batch_size), _free(self.gpu)
        line = (
            f"{self.parameters / 1e6:.1f} M parameters ({self.trained / 1e6:.1f} M trained), about {peak / GB:.1f} GB "
            f"at peak of {available / GB:.0f} GB free, cached data {self.data_bytes / GB:.2f} GB"
        )
        if peak > available:
            line += "; this will not fit: lower model.batch_size, then the width of the network or dataset.volume_size"
        return line

    def largest_batch(self) -> int:
        """The most samples per batch whose peak is within `SHARE` of the free memory, at least 1.

        Raises UserError if the free memory is unknown.
        """
        available = _free(self.gpu)
        if available == UNKNOWN:
            raise UserError("model.batch_size=auto: the free memory of this system is unknown; give a number")
        return max(1, int(SHARE * available - self.peak(0)) // self.per_sample)


def peak_memory() -> str:
    """Peak memory of this process so far, and of torch on a GPU."""
    peak = peak_bytes()
    parts = [] if peak is None else [f"{peak / GB:.1f} GB"]
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        parts.append(f"{torch.cuda.max_memory_allocated() / GB:.1f} GB on the GPU")
    return ", ".join(parts) or "not known"


def out_of_memory(error: BaseException, device: torch.device) -> str:
    """The message for a device out of memory: the measured peak and three remedies."""
    return (
        f"out of memory on {device}: {peak_memory()} at peak ({str(error).splitlines()[0]}). Three remedies: (1) a "
        "lower model.batch_size (of a DDPM with a higher model.gradient_accumulate_every); (2) "
        "model.precision=bf16-mixed; (3) a smaller network (model.dim or model.n_hiddens) or dataset.volume_size"
    )


def _resident() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):  # not Linux
        return 0


def _free(gpu: bool) -> int:
    """Free bytes of the current GPU (`train.distributed.devices.own_device`), or of the machine."""
    return torch.cuda.mem_get_info()[0] if gpu else free_memory()


def restore_batch_size(model: DictConfig, folder: Path, several: bool) -> None:
    """Gives a resumed run with `model.batch_size=auto` the number that it began with.

    Raises UserError for `auto` on several devices, which could find different numbers.
    """
    if model.batch_size != AUTO:
        return
    if several:
        raise UserError("model.batch_size=auto: for one device; give a number for several")
    path = config_file(folder)
    if path.is_file():
        model.batch_size = OmegaConf.load(path).model.batch_size


def choose_batch_size(model: DictConfig, data: CTDataModule, need: MemoryNeed) -> None:
    """Replaces `model.batch_size=auto` by a number, in the config that the run saves and in the data module.

    Raises UserError if the free memory is unknown.
    """
    if model.batch_size == AUTO:
        model.batch_size = data.batch_size = min(need.largest_batch(), len(data.train))
        print_once(f"model.batch_size=auto: {model.batch_size} samples a batch")
