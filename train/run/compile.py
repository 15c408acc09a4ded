"""`model.compile=true`: torch.compile where there is a compiler, and one line where there is none."""

import logging

import torch
from torch import nn

log = logging.getLogger(__name__)


def compile_in_place(network: nn.Module, device: str, backend: str = "inductor") -> bool:
    """Compiles the calls of a network; its weights, their names and its copies stay as they are.

    Args:
        device: `cpu` or `cuda`, where it will train: each needs a compiler of its own.

    Returns:
        Whether there is a compiler. Without one, training goes on as it would without this.
    """
    try:  # a call of one operation tells what a training would only find out at its first batch
        torch.compile(lambda x: x + 1, backend=backend)(torch.zeros(1, device=device))
    except Exception as error:  # noqa: BLE001 (whatever a missing or broken compiler raises: versions differ)
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        log.warning("model.compile=true: no compiler that works on %s (%s); it trains without", device, reason)
        return False
    network.compile(backend=backend)
    return True
