"""Options of a training: optimizer, learning-rate schedule, gradient accumulation, non-finite losses."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from diffusers.optimization import get_cosine_schedule_with_warmup
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


@dataclass(frozen=True)
class Optimisation:
    """Linear warm-up of the learning rate, then a cosine to zero over the whole training."""

    optimizer: partial  # completed with the parameters that train
    num_batches: int  # length of the training
    warmup_steps: int = 0  # of the optimizer
    accumulate: int = 1  # batches per step of the optimizer
    skip_nonfinite: bool = False  # skips batches without a finite loss instead of stopping

    def start(self, parameters: Iterable[nn.Parameter], first_batch: int = 0) -> tuple[Optimizer, LRScheduler]:
        """Optimizer and schedule for parameters that train from `first_batch` on."""
        optimizer = self.optimizer(parameters)
        steps = max(1, (self.num_batches - first_batch) // self.accumulate)
        return optimizer, get_cosine_schedule_with_warmup(optimizer, self.warmup_steps, steps)
