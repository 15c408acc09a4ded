"""Parameters that are spread over processes (FSDP2): the part that lies here, and the whole again.

A parameter that is not sharded passes through unchanged, so that one code serves one device and many.
"""

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(part: nn.Module, mesh) -> None:
    """Spreads the parameters of a network over the processes of a device mesh, in place.

    The entries of its module lists are gathered one after the other, the rest at once, and all are given back after
    each pass: between two passes only shards are in memory.
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
    """What lies in this process, sharing its memory: plain parameters that foreach operations take."""
    return [nn.Parameter(p.to_local().detach(), p.requires_grad) if isinstance(p, DTensor) else p for p in parameters]


def whole(value: Tensor, like: Tensor) -> Tensor:
    """The whole of a value whose local part goes with a parameter; all processes call this together."""
    if not isinstance(like, DTensor):
        return value
    shape, stride = like.shape, like.stride()
    return DTensor.from_local(value, like.device_mesh, like.placements, shape=shape, stride=stride).full_tensor()


def share(value: Tensor, like: Tensor) -> Tensor:
    """This process's part of a whole value that goes with a parameter: the inverse of `whole`."""
    if not isinstance(like, DTensor):
        return value
    return spread(value.to(like.device), like).to_local()


def spread(value: Tensor, like: DTensor) -> DTensor:
    """A whole value, which every process has, laid out as a sharded parameter is."""
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
