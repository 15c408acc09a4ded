"""One number for a metric from the scores of cases, with its interval over patients."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from evaluation.metrics.catalogue import catalogue
from evaluation.statistics.patient_bootstrap import DRAWS, Estimate, bootstrap_mean, bootstrap_ratio

SPREAD = "spread_hu_body"  # the numerator of a metric that is pooled as a ratio


def pooled_estimate(rows: pd.DataFrame, metric: str, patients, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """The estimate of one metric over the cases in `rows`: their mean, unless the metric says otherwise.

    A mean over cases of spread over error would be above 1 for calibrated samples, because the error stands in the
    denominator; so the ratio is that of the root mean squares over cases. Its cases need the column `SPREAD`.
    """
    values, how = rows[metric].to_numpy(dtype=float), catalogue()[metric].pooled
    if how == "mean":
        return bootstrap_mean(values, patients, draws, seed)
    if how == "root mean square":
        return _root(bootstrap_mean(values**2, patients, draws, seed))
    if SPREAD not in rows:
        return Estimate(None, None, None)
    spreads = rows[SPREAD].to_numpy(dtype=float)
    return _root(bootstrap_ratio(spreads**2, (spreads / values) ** 2, patients, draws, seed))


def averaged_names(names: Sequence[str]) -> list[str]:
    """The metrics that are a mean over cases, of which differences can be paired by case."""
    return [name for name in names if catalogue()[name].pooled == "mean"]


def _root(estimate: Estimate) -> Estimate:
    """Of an estimate of squares; a t interval may begin below 0."""
    return Estimate(
        *(None if x is None else float(np.sqrt(max(x, 0.0))) for x in (estimate.mean, estimate.low, estimate.high))
    )
