"""Gives the moments of a resumed optimizer the memory layout of their weights.

torch's fused optimizers iterate over a weight and its moments in memory order. A checkpoint of sharded weights holds
contiguous moments, a single-device one channels-last moments: loaded into a run of the other kind, each moment would
silently be applied to the wrong weight.
"""

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer


def align(optimizer: Optimizer) -> None:
    """Copies the moments whose memory layout differs from that of their weight."""
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            moment = isinstance(value, Tensor) and value.shape == weight.shape
            if moment and _local(value).stride() != _local(weight).stride():
                state[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)


class AlignMoments(pl.Callback):
    """Calls `align` for every optimizer after a checkpoint is loaded."""

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        for optimizer in trainer.optimizers:
            align(optimizer)


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
