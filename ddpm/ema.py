"""The exponential moving average of the weights that train; it validates and generates, sharded like the weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytorch_lightning as pl
import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from ddpm.fsdp import local, share, whole


class AveragedWeights:
    """The average of the parameters of `parts` that have gradients now.

    The decay warms up (power 0.75), so that early averages forget the initial weights.

    Args:
        parts: the networks; they hold either their own weights or the averaged ones.
        decay: the largest.
    """

    def __init__(self, parts: nn.Module, decay: float):
        self._parts = parts
        self.average = EMAModel(self.parameters(), decay=decay, use_ema_warmup=True, power=0.75, foreach=True)
        self.in_use = False

    def parameters(self) -> list[nn.Parameter]:
        """The parameters that train."""
        return [p for p in self._parts.parameters() if p.requires_grad]

    @property
    def shadow(self) -> list[Tensor]:
        """The averages of `parameters()`; of sharded ones the local part."""
        return self.average.shadow_params

    def restart(self) -> None:
        """Starts the average at the present weights, after they were sharded."""
        self.average.shadow_params = [p.detach().clone() for p in local(self.parameters())]

    def step(self, device: torch.device) -> None:
        """Follows one step of the optimizer."""
        self.average.to(device)
        self.average.step(local(self.parameters()))

    def swap_in(self, device: torch.device) -> None:
        """Puts the averages in the place of the weights, once."""
        if not self.in_use:
            self.average.to(device)
            self.average.store(local(self.parameters()))
            self.average.copy_to(local(self.parameters()))
            self.in_use = True

    def swap_out(self) -> None:
        """Puts the weights back."""
        if self.in_use:
            self.average.restore(local(self.parameters()))
            self.in_use = False

    @contextmanager
    def swapped_in(self, device: torch.device) -> Iterator[None]:
        """Inside, the networks hold the averages; their training modes are restored afterwards."""
        modes = {part: part.training for part in self._parts.modules()}
        self.swap_in(device)
        try:
            yield
        finally:
            self.swap_out()
            for part, training in modes.items():
                part.training = training

    def by_name(self) -> dict[str, Tensor]:
        """The averages by parameter name; all processes gather sharded ones together."""
        pairs = zip(self._named(), self.shadow, strict=True)
        return {name: whole(average.detach(), p).clone() for (name, p), average in pairs}

    def load(self, averages: dict[str, Tensor], steps: int) -> None:
        """Restores averages by name after `steps` steps."""
        self.average.shadow_params = [share(averages[name], p).clone() for name, p in self._named()]
        self.average.optimization_step = steps

    def _named(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self._parts.named_parameters() if p.requires_grad]


class SwapOutOnException(pl.Callback):
    """Puts the weights back when validation raises."""

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        """Lightning's hook."""
        module.ema.swap_out()
