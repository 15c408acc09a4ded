"""Nonconformity scores: distance of the truth of a case outside the interval of its samples.

A **tissue**, segmented in the *generated* mean volume, has a HU interval for each of its voxels: in at least `level`
of the cases at least `share` of these intervals contain the true HU, clipped to the window. An **organ volume** in ml
lies inside its interval in at least `level` of the cases.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from dataset.imaging.hu_window import Window
from evaluation.intervals.organ_volumes import HeartVolumeRegressor, true_volumes
from evaluation.intervals.quantities import organ_samples, tissue_masks
from evaluation.statistics.split_conformal import order_interval, share_score


def case_scores(
    samples: Float[Tensor, "s d h w"],
    case: dict,
    spacing: tuple[float, float, float],
    window: Window,
    levels: Sequence[float],
    share: float,
    heart: HeartVolumeRegressor | None = None,
    predictive: Float[Tensor, "s d h w"] | None = None,
) -> list[dict]:
    """Rows `{"quantity", "level", "below", "above", "width"}` of one case.

    `below` and `above` are the distances of the truth outside the lower and the upper end, negative inside; for a
    tissue both are its score. `width` is that of the interval of the samples without margin. Quantities that the case
    or its mean volume does not have are omitted. `samples` are in HU, `spacing` is theirs in mm `(D, H, W)`, and each
    level needs `2 / (1 - level)` samples. Intervals of voxels are those of the `predictive` samples, which contain the
    detail that the decoder loses; None takes `samples`.
    """
    truth, known, found = case["ct"].float().clamp(window.low, window.high), true_volumes(case), []
    predictive = samples if predictive is None else predictive
    for name, mask in tissue_masks(predictive.mean(dim=0), spacing, window).items():
        mask = mask & case["scanned"] if "scanned" in case else mask
        if mask.any():
            ordered, wanted = predictive[:, mask].sort(dim=0).values, truth[mask]
            for level in levels:
                low, high = order_interval(ordered, level)
                score = share_score(torch.maximum(low - wanted, wanted - high), share)
                found.append((name, level, score, score, float((high - low).mean())))
    for name, volumes in organ_samples(samples, spacing, heart, window).items():
        for level in levels if name in known else ():
            low, high = (float(x) for x in order_interval(volumes, level))
            found.append((name, level, low - known[name], known[name] - high, high - low))
    return [dict(zip(("quantity", "level", "below", "above", "width"), row, strict=True)) for row in found]
