"""What the prepared cases say about the data set: completed rows and the mean lung box."""

from pathlib import Path

import numpy as np
import pandas as pd

from dataset.cases.source import Source
from dataset.cases.store import stored
from dataset.imaging.iodine import CONTRAST_ML
from dataset.manifest.table import DRR, DRR_CONTRAST


def completed_rows(source: Source, paths: list[Path]) -> pd.DataFrame:
    """Rows with what only the cases know: labels of phantoms once drawn, and iodine in the CT behind a DRR.

    A table may know better than the measurement that a CT has contrast, but not of a DRR that iodine was taken out of.
    """
    rows = source.rows.copy()
    unknown = np.flatnonzero(rows["label"] == -1)
    found = [stored(paths[i], "label") for i in unknown]
    rows.loc[rows.index[unknown], "label"] = [-1 if label is None else int(label) for label in found]
    made = np.flatnonzero(rows["xray_source"].isin((DRR, DRR_CONTRAST)))
    for i in made:
        iodine = stored(paths[i], "iodine_ml")
        if iodine is not None and float(iodine) > CONTRAST_ML:
            rows.loc[rows.index[i], "xray_source"] = DRR_CONTRAST
        elif iodine is not None and (source.describe().get("drr") or {}).get("remove_iodine"):
            rows.loc[rows.index[i], "xray_source"] = DRR
    return rows


def mean_lung_box(paths: list[Path]) -> list[float] | None:
    """The median over the training volumes of each side of their lung box; None where no lungs were found."""
    boxes = np.stack([stored(path, "lung_box").numpy() for path in paths])
    boxes = boxes[~np.isnan(boxes).any(axis=1)]
    return [round(float(x), 4) for x in np.median(boxes, axis=0)] if len(boxes) else None
