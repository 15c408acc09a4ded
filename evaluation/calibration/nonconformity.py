"""What conformal bounds are bounds on, and how far the truth of a case lies outside the interval of its samples.

Two kinds of quantities. A **tissue**: a HU interval for each voxel of a tissue as the *generated* mean volume shows it
(a bound has to be drawn where nobody knows the truth); the promise is that in at least `level` of the cases at least
`share` of that tissue's voxels hold the true HU, clipped to the window. An **organ volume** in ml: the promise is that
in at least `level` of the cases the interval holds the true volume.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from dataset.imaging.hu_window import Window
from evaluation.intervals.organ_volumes import HeartRuler, true_volumes
from evaluation.intervals.quantities import organ_samples, tissue_masks
from evaluation.statistics.split_conformal import order_interval, share_score


def case_scores(
    samples: Float[Tensor, "s d h w"],
    case: dict,
    spacing: tuple[float, float, float],
    window: Window,
    levels: Sequence[float],
    share: float,
    ruler: HeartRuler | None = None,
) -> list[dict]:
    """Rows `{"quantity", "level", "below", "above", "width"}` of one case.

    `below` and `above` say how far the truth lies outside the lower and the upper end, negative where inside; of a
    tissue both are its one score. `width` is that of the interval of the samples before any margin. A quantity that
    the case or its mean volume does not have is left out.

    Args:
        samples: HU.
        case: its truth: `ct` in HU before windowing, `spacing`, of phantoms `labels`.
        spacing: of the samples as the generator knew it, mm.
        levels: each needs `2 / (1 - level)` samples.
        share: of a tissue's voxels that have to be right.
    """
    truth = case["ct"].float().clamp(window.low, window.high)
    masks = tissue_masks(samples.mean(dim=0), spacing)
    known = true_volumes(case)
    organs = {k: v for k, v in organ_samples(samples, spacing, ruler, window).items() if k in known}
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
