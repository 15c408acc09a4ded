"""Parameters sharded over processes (FSDP2): local shards and full tensors; others pass through unchanged."""

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(part: nn.Module, mesh) -> None:
    """Shards the parameters of a network over the processes of a device mesh, in place.

    FSDP gathers the entries of module lists one by one and the rest at once, and frees them after each pass.
    """
    if not any(True for _ in part.parameters()):
        return
    part.to(memory_format=torch.contiguous_format)  # FSDP takes no other; activations keep theirs
    for parent in part.modules():
        for child in parent if isinstance(parent, nn.ModuleList) else ():
            if not isinstance(child, nn.ModuleList) and any(True for _ in child.parameters()):
                fully_shard(child, mesh=mesh, reshard_after_forward=True)
    fully_shard(part, mesh=mesh, reshard_after_forward=True)


def local(parameters: list[nn.Parameter]) -> list[nn.Parameter]:
    """Local shards that share memory with `parameters`: plain parameters for foreach operations."""
    return [nn.Parameter(p.to_local().detach(), p.requires_grad) if isinstance(p, DTensor) else p for p in parameters]


def whole(value: Tensor, like: Tensor) -> Tensor:
    """The full tensor of a value whose local shard belongs to parameter `like`; all processes call this together."""
    if not isinstance(like, DTensor):
        return value
    shape, stride = like.shape, like.stride()
    return DTensor.from_local(value, like.device_mesh, like.placements, shape=shape, stride=stride).full_tensor()


def share(value: Tensor, like: Tensor) -> Tensor:
    """This process's shard of a full tensor that belongs to parameter `like`: the inverse of `whole`."""
    return spread(value.to(like.device), like).to_local() if isinstance(like, DTensor) else value


def spread(value: Tensor, like: DTensor) -> DTensor:
    """A full tensor, which every process has, sharded as `like`."""
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
