"""The files of a calibration: the bounds first, as generation needs nothing else, then table and picture."""

from pathlib import Path

import pandas as pd

from evaluation.bounds import Bounds
from evaluation.bounds_chart import reliability_picture
from evaluation.bounds_table import markdown


def write_calibration(bounds: Bounds, scores: pd.DataFrame, output: Path, path: Path) -> Path:
    """Writes the bounds to `path`; into `output` the scores, the table and, if anything was measured, the picture."""
    output.mkdir(parents=True, exist_ok=True)
    scores.to_csv(output / "bounds_scores.csv", index=False, float_format="%.6g")
    written = bounds.write(path)
    (output / "bounds.md").write_text(markdown(bounds), encoding="utf-8")
    figure = reliability_picture(bounds)
    if figure is not None:
        figure.savefig(output / "reliability.png", dpi=120)
    return written
