"""Whether what is called a region in a generated volume is that region: precision and recall against labels."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from dataset.imaging.hu_window import Window
from evaluation.intervals.quantities import NAMED_BY_LABELS, tissue_masks
from evaluation.metrics.base import CaseView, NotMeasured
from evaluation.metrics.regions import REGIONS


def region_counts(
    mean: Float[Tensor, "d h w"], case: dict, spacing: tuple[float, float, float], window: Window
) -> dict[str, tuple[int, int, int]]:
    """`{region: (voxels in both, in the generated mean, in the labels)}` of a case; empty without labels."""
    if "labels" not in case:
        return {}
    view, found = CaseView(case, mean[None], window), tissue_masks(mean, spacing, window)
    counts = {}
    for name in NAMED_BY_LABELS:
        own = view.counted(found[name])
        try:
            true = view.counted(REGIONS[name].mask(view))
        except NotMeasured:  # these labels do not occur in the case
            true = torch.zeros_like(own)
        counts[name] = tuple(int(mask.sum()) for mask in (own & true, own, true))
    return counts


def region_accuracy(cases: Iterable[dict[str, tuple[int, int, int]]]) -> dict[str, dict]:
    """`{region: {"precision", "recall", "cases"}}` over the voxels of all cases with labels; 0 where nothing is."""
    counted = [counts for counts in cases if counts]
    result = {}
    for name in NAMED_BY_LABELS if counted else ():
        both, own, true = (sum(counts[name][k] for counts in counted) for k in range(3))
        shares = {"precision": both / max(own, 1), "recall": both / max(true, 1)}
        result[name] = {key: round(share, 3) for key, share in shares.items()} | {"cases": len(counted)}
    return result
