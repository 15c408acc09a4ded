"""Nonconformity scores: how far the truth of a case lies outside the interval of its samples.

There are two kinds of quantities. A **tissue** has a HU interval for each of its voxels, where the tissue is that of
the *generated* mean volume, since the true one is unknown in use; in at least `level` of the cases at least `share` of
these voxels hold the true HU, clipped to the window. An **organ volume** in ml lies inside its interval in at
least `level` of the cases.
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
) -> list[dict]:
    """Rows `{"quantity", "level", "below", "above", "width"}` of one case.

    `below` and `above` are the distances of the truth outside the lower and the upper end, negative inside; for a
    tissue both are its one score. `width` is that of the interval of the samples without margin. A quantity that the
    case or its mean volume does not have is omitted.

    Args:
        samples: HU.
        case: `ct` in HU before windowing, `spacing`, for phantoms `labels`.
        spacing: mm `(D, H, W)` of the samples.
        levels: each needs `2 / (1 - level)` samples.
        share: of a tissue's voxels that have to lie inside.
    """
    truth = case["ct"].float().clamp(window.low, window.high)
    masks = tissue_masks(samples.mean(dim=0), spacing)
    known = true_volumes(case)
    organs = {k: v for k, v in organ_samples(samples, spacing, heart, window).items() if k in known}
    rows = []
    for name, mask in masks.items():
        if not mask.any():
            continue
        drawn, wanted = samples[:, mask].sort(dim=0).values, truth[mask]
        for level in levels:
            low, high = order_interval(drawn, level)
            score = share_score(torch.maximum(low - wanted, wanted - high), share)
            rows.append(_row(name, level, score, score, float((high - low).mean())))
    for name, drawn in organs.items():
        for level in levels:
            low, high = (float(x) for x in order_interval(drawn, level))
            rows.append(_row(name, level, low - known[name], known[name] - high, high - low))
    return rows


def _row(quantity: str, level: float, below: float, above: float, width: float) -> dict:
    return {"quantity": quantity, "level": level, "below": below, "above": above, "width": width}
