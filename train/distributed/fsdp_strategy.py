"""`trainer=fsdp`: Lightning's ModelParallelStrategy with every weight sharded and single-device checkpoints.

The modules call `fully_shard` in `configure_model`. A checkpoint is gathered into one plain file, which runs with any
number of devices and generation can read.
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
    """Data-parallel over all devices of all nodes, with sharded parameters, gradients and moments (FSDP2)."""

    def __init__(self, **options: Any):
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False, **options)

    def setup_environment(self) -> None:
        """Shards over all devices; Lightning's default shards over nodes only."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The state as on one device, gathered by all processes together."""
        optimizer = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        return _map_moments(
            optimizer.state_dict(), lambda key, x: x.full_tensor().cpu() if isinstance(x, DTensor) else x
        )

    @property
    def lightning_restore_optimizer(self) -> bool:
        """True: `load_optimizer_state_dict` restores the optimizers."""
        return True

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """The plain file; `load_model_state_dict` shards its weights."""
        return ParallelStrategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Loads each process's shard of the weights."""
        options = StateDictOptions(full_state_dict=True, strict=strict)
        set_model_state_dict(self.model, checkpoint["state_dict"], options=options)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Loads each process's shard of the moments."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            weights = [p for group in optimizer.param_groups for p in group["params"]]

            def sharded(key: int, value: Any, weights: list[Tensor] = weights) -> Any:
                weight = weights[key]
                moment = isinstance(value, Tensor) and isinstance(weight, DTensor) and value.shape == weight.shape
                return spread(value.to(weight.device), weight) if moment else value

            optimizer.load_state_dict(_map_moments(state, sharded))


def _map_moments(state: dict[str, Any], change) -> dict[str, Any]:
    moments = {
        key: {name: change(key, value) for name, value in values.items()} for key, values in state["state"].items()
    }
    return {**state, "state": moments}
