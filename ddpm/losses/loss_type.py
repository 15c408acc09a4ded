"""`model.loss_type`, such as `l1_lpips_disc`: a pointwise loss and terms on the predicted clean latents."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

POINTWISE: dict[str, Callable[..., Tensor]] = {"l1": F.l1_loss, "l2": F.mse_loss, "huber": F.smooth_l1_loss}
TERMS = {"lpips": "perceptual", "disc": "adversarial", "cls": "classification"}  # word of loss_type: name of the term
DEFAULT_WEIGHT = 0.01  # of a term that loss_type names and whose own weight is null


def parse_loss_type(loss_type: str, weights: dict[str, float | None]) -> tuple[str, dict[str, float]]:
    """Name of the pointwise loss, and the weight of each further term that takes part.

    A weight of None is 0.01 if `loss_type` names the term, else 0; a number overrides the name.
    """
    pointwise, *words = str(loss_type).split("_")
    if pointwise not in POINTWISE or not set(words) <= TERMS.keys() or len(set(words)) < len(words):
        raise ValueError(
            f"model.loss_type={loss_type}: choose one of {', '.join(POINTWISE)}, and after it any of "
            f"{', '.join('_' + word for word in TERMS)}, as in l1_lpips"
        )
    found = {}
    for word, term in TERMS.items():
        weight = weights.get(term)
        weight = (DEFAULT_WEIGHT if word in words else 0.0) if weight is None else float(weight)
        if not weight >= 0:
            raise ValueError(f"model.losses.{term}.weight={weight:g}: give 0 or more")
        if weight > 0:
            found[term] = weight
    return pointwise, found
