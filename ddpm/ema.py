"""The exponential moving average of the trained weights, for validation and generation; sharded like the weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytorch_lightning as pl
import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from ddpm.fsdp import local, share, whole


class AveragedWeights(pl.Callback):
    """The average of the parameters of `parts` that have gradients at construction; validation uses it.

    The decay rises to `decay` (power 0.75), so that the average forgets the initial weights.
    """

    def __init__(self, parts: nn.Module, decay: float):
        self._parts = parts
        self.average = EMAModel(self.parameters(), decay=decay, use_ema_warmup=True, power=0.75, foreach=True)
        self.in_use = False

    def parameters(self) -> list[nn.Parameter]:
        """The parameters that train."""
        return list(self._named().values())

    @property
    def shadow(self) -> list[Tensor]:
        """The averages of `parameters()`; of sharded ones the local part."""
        return self.average.shadow_params

    def restart(self) -> None:
        """Starts the average at the present weights, after sharding."""
        self.average.shadow_params = [p.detach().clone() for p in local(self.parameters())]

    def step(self, device: torch.device) -> None:
        """Updates the average after a step of the optimizer."""
        self.average.to(device)
        self.average.step(local(self.parameters()))

    def swap_in(self, device: torch.device) -> None:
        """Replaces the weights by the averages, unless they are replaced already."""
        if not self.in_use:
            self.average.to(device)
            self.average.store(local(self.parameters()))
            self.in_use = True  # before the copy, which a signal may interrupt
            self.average.copy_to(local(self.parameters()))

    def swap_out(self) -> None:
        """Restores the weights."""
        if self.in_use:
            self.average.restore(local(self.parameters()))
            self.in_use = False

    @contextmanager
    def swapped_in(self, device: torch.device) -> Iterator[None]:
        """The networks hold the averages within the context; it restores weights and training modes."""
        modes = {part: part.training for part in self._parts.modules()}
        self.swap_in(device)
        try:
            yield
        finally:
            self.swap_out()
            for part, training in modes.items():
                part.training = training

    def by_name(self) -> dict[str, Tensor]:
        """The averages by parameter name, sharded ones gathered; all processes call this together."""
        pairs = zip(self._named().items(), self.shadow, strict=True)
        return {name: whole(average.detach(), p).clone() for (name, p), average in pairs}

    def load(self, averages: dict[str, Tensor], steps: int) -> None:
        """Restores averages by name after `steps` steps."""
        self.average.shadow_params = [share(averages[name], p).clone() for name, p in self._named().items()]
        self.average.optimization_step = steps

    def _named(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self._parts.named_parameters() if p.requires_grad}

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Validates the averages."""
        self.swap_in(module.device)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Training continues with the weights."""
        self.swap_out()

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        """Restores the weights if validation raises."""
        self.swap_out()
