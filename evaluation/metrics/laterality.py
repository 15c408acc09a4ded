"""Detects mirrored volumes, which other metrics hardly penalise."""

import torch
from jaxtyping import Float
from torch import Tensor

from evaluation.metrics.base import Metric

SHIFT_SHARE = 0.15  # of the width: largest sideways shift, so that an off-centre chest does not count as mirrored


def left_right(prediction: Float[Tensor, "*b d h w"], truth: Float[Tensor, "d h w"]) -> Float[Tensor, "*b"]:
    """1 if the prediction fits the truth better than its mirror image does, 0 if worse, 1/2 if equal.

    Compares the smallest squared errors over sideways shifts by whole voxels up to `SHIFT_SHARE` of the width.
    """
    width, air = truth.shape[-1], truth.amin()
    reach = max(1, round(SHIFT_SHARE * width))
    shifted = torch.nn.functional.pad(truth - air, (reach, reach)).unfold(-1, width, 1).unbind(-2)

    def best(volume: Tensor) -> Tensor:
        volume = volume - air
        return torch.stack([(volume - other).square().mean(dim=(-3, -2, -1)) for other in shifted]).amin(dim=0)

    plain, mirrored = best(prediction), best(prediction.flip(-1))
    close = (plain - mirrored).abs() <= 1e-6 * (plain + mirrored)
    return torch.where(close, 0.5, (plain < mirrored).float())


METRICS = (
    Metric(
        "left_right",
        "right way round",
        lambda view: left_right(view.predictions, view.truth),
        "share of cases that fit the truth better than their mirror image, both shifted sideways to fit best",
        default=True,
    ),
)
