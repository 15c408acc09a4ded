"""The catalogue of metrics: every METRICS tuple of this folder, by name."""

import importlib
import pkgutil
from functools import cache

import numpy as np

from evaluation.metrics.base import CaseView, Metric, NotMeasured


@cache
def catalogue() -> dict[str, Metric]:
    """Every metric by name, in the order of `ORDER`, then of the files.

    Raises:
        ValueError: two metrics of one name.
    """
    import evaluation.metrics as folder

    found: dict[str, Metric] = {}
    for module in pkgutil.iter_modules(folder.__path__, folder.__name__ + "."):
        for metric in getattr(importlib.import_module(module.name), "METRICS", ()):
            if metric.name in found:
                raise ValueError(f"{module.name}: a metric {metric.name} exists already")
            found[metric.name] = metric
    first = [name for name in ORDER if name in found]
    return {name: found[name] for name in (*first, *(n for n in found if n not in first))}


# Columns that readers look for first; the others follow
ORDER = ("psnr", "ssim", "mae_hu", "mae_hu_body", "mae_hu_lungs", "lung_dice", "reprojection", "left_right")


def measure(names, view: CaseView) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Values `(m,)` of the metrics named, NaN where one has no meaning, and the reasons for that by name."""
    values, reasons = {}, {}
    for name in names:
        try:
            values[name] = catalogue()[name].function(view).double().cpu().numpy()
        except NotMeasured as reason:
            values[name] = np.full(len(view.predictions), np.nan)
            reasons[name] = str(reason)
    return values, reasons
