"""Detects mirrored volumes, which other metrics hardly penalise."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from evaluation.metrics.base import CaseView, Metric, NotMeasured

AXES = (-3, -2, -1)
SHIFT_SHARE = 0.15  # of the width: largest sideways shift, so that an off-centre chest does not count as mirrored


def left_right(
    prediction: Float[Tensor, "*b d h w"], truth: Float[Tensor, "d h w"], mask: Bool[Tensor, "d h w"] | None = None
) -> Float[Tensor, "*b"]:
    """1 if the prediction fits the truth better than its mirror image does, 0 if worse, 1/2 if equal.

    Compares the smallest mean squared errors over sideways shifts by whole voxels up to `SHIFT_SHARE` of the width.
    Voxels count that lie in the `mask` of both volumes, which is shifted and mirrored with them.
    """
    width, air = truth.shape[-1], truth.amin()
    reach = max(1, round(SHIFT_SHARE * width))

    def shifted(field: Tensor, beyond: float) -> Sequence[Tensor]:
        return F.pad(field, (reach, reach), value=beyond).unfold(-1, width, 1).unbind(-2)

    truths = shifted(truth - air, 0.0)
    masks = [None] * len(truths) if mask is None else shifted(mask.to(truth), 1.0)

    def best(volume: Tensor, known: Tensor | None) -> Tensor:
        volume, errors = volume - air, []
        for other, there in zip(truths, masks, strict=True):
            square, both = (volume - other).square(), None if there is None else known * there
            mean = square.mean(dim=AXES) if both is None else (square * both).sum(dim=AXES) / both.sum()
            errors.append(mean.nan_to_num(nan=torch.inf))  # no voxel in both masks
        return torch.stack(errors).amin(dim=0)

    plain, mirrored = best(prediction, mask), best(prediction.flip(-1), None if mask is None else mask.flip(-1))
    close = (plain - mirrored).abs() <= 1e-6 * (plain + mirrored)
    return torch.where(close, 0.5, (plain < mirrored).float())


def _left_right(view: CaseView) -> Float[Tensor, " m"]:
    if view.scanned is not None and not (view.scanned & view.scanned.flip(-1)).any():
        raise NotMeasured("the scan shows one side only")
    return left_right(view.predictions, view.truth, view.scanned)


METRICS = (
    Metric(
        "left_right",
        "right way round",
        _left_right,
        "share of cases that fit the truth better than their mirror image, both shifted sideways to fit best",
        default=True,
    ),
)
