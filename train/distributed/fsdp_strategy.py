"""`trainer=fsdp`: Lightning's ModelParallelStrategy, every weight sharded, with checkpoints like those of one device.

The modules call `fully_shard` in `configure_model`. A checkpoint is gathered into one plain file: what one number of
devices has written, any other number reads, and so does generation.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.strategies import ModelParallelStrategy
from pytorch_lightning.strategies.parallel import ParallelStrategy
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from ddpm.fsdp import spread


class ShardedStrategy(ModelParallelStrategy):
    """Data-parallel over all devices of all nodes, with parameters, gradients and moments sharded (FSDP2)."""

    def __init__(self, **options: Any):
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False, **options)

    def setup_environment(self) -> None:
        """Lightning's own default would shard over nodes only."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The state as one device has it, gathered by all processes together."""
        optimizer = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        state = optimizer.state_dict()
        moments = {key: {name: _gathered(value) for name, value in of.items()} for key, of in state["state"].items()}
        return {**state, "state": moments}

    @property
    def lightning_restore_optimizer(self) -> bool:
        """By `load_optimizer_state_dict` below."""
        return True

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """The plain file; its weights are laid out when the module has seen it."""
        return ParallelStrategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Every process takes its part of the whole weights."""
        options = StateDictOptions(full_state_dict=True, strict=strict)
        set_model_state_dict(self.model, checkpoint["state_dict"], options=options)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Every process takes its part of the whole moments."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            moments = {
                key: {name: _laid_out(value, parameters[key]) for name, value in of.items()}
                for key, of in state["state"].items()
            }
            optimizer.load_state_dict({**state, "state": moments})


def _laid_out(value: Any, parameter: Tensor) -> Any:
    moment = isinstance(value, Tensor) and isinstance(parameter, DTensor) and value.shape == parameter.shape
    return spread(value.to(parameter.device), parameter) if moment else value


def _gathered(value: Any) -> Any:
    return value.full_tensor().cpu() if isinstance(value, DTensor) else value
