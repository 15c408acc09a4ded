"""The catalogue of metrics: all METRICS tuples of this folder and those in it, by name."""

import importlib
import pkgutil
from functools import cache

import numpy as np

from evaluation.metrics.base import CaseView, Metric, NotMeasured

ORDER = (
    *("psnr", "ssim", "mae_hu", "mae_hu_body", "mae_hu_lungs", "lung_dice"),
    *("crps", "energy_score", "spread_hu_body", "spread_latent_hu_body", "spread_over_error"),
    "covered_90",
    *("reprojection", "left_right"),
)


@cache
def catalogue() -> dict[str, Metric]:
    """Every metric by name: `ORDER`, then the order of the files; ValueError for two metrics of one name."""
    import evaluation.metrics as folder

    found: dict[str, Metric] = {}
    for module in pkgutil.walk_packages(folder.__path__, folder.__name__ + "."):
        for metric in getattr(importlib.import_module(module.name), "METRICS", ()):
            if metric.name in found:
                raise ValueError(f"{module.name}: a metric {metric.name} exists already")
            found[metric.name] = metric
    return {name: found[name] for name in dict.fromkeys((*ORDER, *found))}


def measure(names, view: CaseView) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Values `(m,)` by metric, NaN for one that is not defined, and the reasons for the NaN by metric."""
    values, reasons = {}, {}
    for name in names:
        try:
            values[name] = catalogue()[name].function(view).double().cpu().numpy()
        except NotMeasured as reason:
            values[name] = np.full(len(view.predictions), np.nan)
            reasons[name] = str(reason)
    return values, reasons
