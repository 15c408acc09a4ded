"""`model.compile=true`: torch.compile, or a warning if there is no compiler."""

import logging

import torch
from torch import nn

log = logging.getLogger(__name__)


def compile_in_place(network: nn.Module, device: str, backend: str = "inductor") -> bool:
    """Compiles the calls of a network and returns whether a compiler works; weights, names and copies stay unchanged.

    Args:
        device: of the training, `cpu` or `cuda`; each needs its own compiler.
    """
    try:  # one operation shows at once what the training would find at its first batch
        torch.compile(lambda x: x + 1, backend=backend)(torch.zeros(1, device=device))
    except Exception as error:  # noqa: BLE001 (the exceptions of missing compilers differ between versions)
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        log.warning("model.compile=true: no compiler works on %s (%s); training without", device, reason)
        return False
    network.compile(backend=backend)
    return True
