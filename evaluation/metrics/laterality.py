"""Detects mirrored volumes, which other metrics hardly penalise."""

import torch
from jaxtyping import Float
from torch import Tensor

from evaluation.metrics.base import Metric

SHIFT_SHARE = 0.15  # of the width: how far both ways round may be moved, so that a chest off centre is no mirror


def left_right(prediction: Float[Tensor, "*b d h w"], truth: Float[Tensor, "d h w"]) -> Float[Tensor, "*b"]:
    """1 if the prediction fits the truth better than its mirror image, 0 if worse, 1/2 if equal.

    Both may be shifted sideways by `SHIFT_SHARE` of the width, in whole voxels; the best squared error counts. The
    deviation from the mean of each coronal-sagittal line is compared, of which a symmetric chest has none.
    """
    reach = max(1, round(SHIFT_SHARE * truth.shape[-1]))
    air = truth.amin()
    moved = torch.nn.functional.pad(truth - air, (reach, reach))
    width = truth.shape[-1]

    def best(volume: Tensor) -> Tensor:
        volume = volume - air
        errors = [
            (volume - moved[..., start : start + width]).square().mean(dim=(-3, -2, -1))
            for start in range(2 * reach + 1)
        ]
        return torch.stack(errors).amin(dim=0)

    plain, mirrored = best(prediction), best(prediction.flip(-1))
    close = (plain - mirrored).abs() <= 1e-6 * (plain + mirrored)
    return torch.where(close, 0.5, (plain < mirrored).float())


METRICS = (
    Metric(
        "left_right",
        "right way round",
        "",
        "high",
        3,
        lambda view: left_right(view.predictions, view.truth),
        "share of cases that fit the truth better than their mirror image, both shifted sideways to fit best",
        default=True,
    ),
)
