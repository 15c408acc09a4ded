"""Pointwise losses by the names that `model.loss_type` takes."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

POINTWISE: dict[str, Callable[..., Tensor]] = {
    "l1": F.l1_loss,
    "l2": F.mse_loss,
    "huber": F.smooth_l1_loss,
}


def pointwise_loss(loss_type: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Function of (prediction, target) that keeps the shape.

    Raises:
        ValueError: for an unknown name, with the choices.
    """
    if loss_type not in POINTWISE:
        raise ValueError(f"model.loss_type={loss_type}: choose one of {', '.join(POINTWISE)}")
    function = POINTWISE[loss_type]
    return lambda prediction, target: function(prediction, target, reduction="none")
