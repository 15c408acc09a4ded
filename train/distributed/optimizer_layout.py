"""The moments of a resumed optimizer, laid out in memory as their weights are.

torch's fused optimizers walk a weight and its moments as one line of memory each. A checkpoint of sharded weights
holds contiguous moments, one of a single device channels-last ones: read into the other kind of run, each would go to
the wrong weight, and nothing would say so.
"""

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer


def align(optimizer: Optimizer) -> None:
    """Copies the moments whose layout is not that of their weight."""
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            moment = isinstance(value, Tensor) and value.shape == weight.shape
            if moment and _own(value).stride() != _own(weight).stride():
                state[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)


class AlignMoments(pl.Callback):
    """`align` for every optimizer of a run, behind the reading of a checkpoint."""

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Lightning's hook."""
        for optimizer in trainer.optimizers:
            align(optimizer)


def _own(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
