"""Completed manifest, median lung box and protocol of a data set, from its prepared cases."""

from pathlib import Path

import numpy as np
import pandas as pd

from dataset.cases.case import case_key
from dataset.cases.source import Source
from dataset.cases.store import stored
from dataset.imaging.hu_window import Window
from dataset.imaging.iodine import CONTRAST_ML
from dataset.manifest.splits import patients_digest
from dataset.manifest.table import DRR, DRR_CONTRAST, SPLITS


def completed_rows(source: Source, paths: list[Path]) -> pd.DataFrame:
    """The manifest with labels of phantoms and `drr_contrast` where a DRR shows iodine.

    `drr_contrast` of the manifest stays unless the source removes iodine before projection.
    """
    rows = source.rows.copy()
    unknown = np.flatnonzero(rows["label"] == -1)
    found = [stored(paths[i], "label") for i in unknown]
    rows.loc[rows.index[unknown], "label"] = [-1 if label is None else int(label) for label in found]
    removed = (source.describe().get("drr") or {}).get("remove_iodine")
    for i in np.flatnonzero(rows["xray_source"].isin((DRR, DRR_CONTRAST))):
        iodine = stored(paths[i], "iodine_ml")
        if iodine is not None and float(iodine) > CONTRAST_ML:
            rows.loc[rows.index[i], "xray_source"] = DRR_CONTRAST
        elif iodine is not None and removed:
            rows.loc[rows.index[i], "xray_source"] = DRR
    return rows


def median_lung_box(paths: list[Path]) -> list[float] | None:
    """Median over the volumes of each side of their lung box; None without lungs."""
    boxes = np.stack([stored(path, "lung_box").numpy() for path in paths])
    boxes = boxes[~np.isnan(boxes).any(axis=1)]
    return [round(float(x), 4) for x in np.median(boxes, axis=0)] if len(boxes) else None


def data_protocol(source: Source, window: Window, paths: list[Path], rows: pd.DataFrame) -> dict:
    """Description of prepared data for results and checkpoints; plain JSON.

    `version` is a hash of the cases; `window` is in HU; `spacing` and `extent` in mm `[D, H, W]` and `lung_box` are
    medians of the training cases; `xray_sources` and `split` are counts; `patients_sha256` identifies the patients of
    each split without their names; `forward_model` says how the X-rays came about, None if unknown. The source and
    its X-ray options add entries such as `dataset`, `align` and `film`.
    """
    trained = [path for path, split in zip(paths, rows["split"], strict=True) if split == "train"]
    spacing = np.median([stored(path, "spacing").numpy() for path in trained], axis=0)
    size = source.describe()["volume_size"]
    counts = rows["split"].value_counts()
    return {
        "version": case_key({"cases": sorted(path.stem for path in paths)}),
        **source.describe(),
        "window": [window.low, window.high],
        "spacing": [round(float(s), 4) for s in spacing],
        "extent": [round(float(n * s), 2) for n, s in zip(size, spacing, strict=True)],
        "forward_model": source.forward_model() if hasattr(source, "forward_model") else None,
        **source.xray_options.describe(),
        "lung_box": median_lung_box(trained),
        "xray_sources": {str(k): int(v) for k, v in rows["xray_source"].value_counts().items()},
        "split": {split: int(counts.get(split, 0)) for split in SPLITS},
        "patients_sha256": patients_digest(rows),
    }
