"""Charts of the report: scores per case by method, reliability of evidence, loss curves of the training runs."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from common.files import newest
from evaluation.scoring.score_cases import TRUTH
from evaluation.scoring.summary import LABELS, METRIC_LABELS, measured_names

COLUMNS = 3  # panels beside each other
NO_LOSSES = ("lr", "psnr", "ssim", "mae_hu")  # logged beside the losses, on other scales
MODEL_COLOUR, OTHER_COLOUR = "#d1495b", "#7a8794"


def case_scores(scores: pd.DataFrame) -> Figure | None:
    """A dot per case, a box over the middle half and a bar at the mean, for every method, a panel for each metric."""
    scores = scores[scores.method != TRUTH]
    metrics = [name for name in measured_names(scores) if scores[name].notna().any()]
    names = sorted(
        scores.method.unique(), key=lambda name: list(LABELS).index(name) if name in LABELS else len(LABELS)
    )
    if not metrics:
        return None
    rows = -(-len(metrics) // COLUMNS)
    columns = min(COLUMNS, len(metrics))
    figure = Figure(figsize=(11, rows * (0.3 * len(names) + 0.8)), layout="constrained")
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    generator = np.random.default_rng(0)
    for axis in axes[len(metrics) :]:
        axis.set_visible(False)
    for axis, metric in zip(axes[: len(metrics)], metrics, strict=True):
        for row, name in enumerate(names):
            values = scores.loc[scores.method == name, metric].dropna().to_numpy()
            colour = MODEL_COLOUR if name.startswith("model") else OTHER_COLOUR
            heights = row + generator.uniform(-0.2, 0.2, len(values))
            axis.plot(values, heights, "o", color=colour, alpha=0.45, markersize=3.5, markeredgewidth=0)
            if len(values):
                lower, upper = np.quantile(values, [0.25, 0.75])
                axis.barh(row, upper - lower, left=lower, height=0.5, color=colour, alpha=0.22, linewidth=0)
                axis.plot([values.mean()] * 2, [row - 0.32, row + 0.32], color="black", linewidth=1.6)
        axis.use_sticky_edges = False  # otherwise boxes end the axis and cut the dots on its edge
        axis.margins(x=0.05)
        axis.set_xlabel(METRIC_LABELS[metric], fontsize=9)
        axis.tick_params(axis="x", labelsize=8)
        axis.set_yticks(range(len(names)), [LABELS.get(name, name) for name in names], fontsize=9)
        axis.grid(axis="x", alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].invert_yaxis()  # shared, so it turns all
    return figure


def evidence_curve(bins: list[dict]) -> Figure:
    """Error of the mean against what the evidence leaves open, by bin of evidence; the diagonal is reliable."""
    rows = [row for row in bins if row["error"] is not None]
    expected, error = (
        [100.0 * value for value in values]
        for values in (
            [row["expected"] for row in rows],
            [row["error"]["mean"] for row in rows],
        )
    )
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axis = figure.subplots()
    axis.plot([0, 100], [0, 100], color="black", linewidth=0.8, label="reliable")
    ends = [(row["error"]["low"], row["error"]["high"]) for row in rows]
    for place, value, (low, high) in zip(expected, error, ends, strict=True):
        if low is not None:
            axis.plot([place, place], [100.0 * low, 100.0 * high], color=MODEL_COLOUR, linewidth=1.4)
        axis.plot([place], [value], "o", color=MODEL_COLOUR, markersize=5)
    axis.set_xlabel("1 − evidence, % of the training variance", fontsize=9)
    axis.set_ylabel("squared error of the mean, % of it", fontsize=9)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def loss_curves(run: str | Path, title: str) -> Figure | None:
    """Every logged loss of a run against the step; None without any."""
    file = newest(Path(run).glob("**/metrics.csv"))
    if file is None or file.stat().st_size == 0:
        return None
    table = pd.read_csv(file)
    losses = [name for name in table.columns if _is_loss(name) and table[name].notna().sum() > 1]
    if not losses or "step" not in table:
        return None
    figure = Figure(figsize=(5.4, 3.0), layout="constrained")
    axis = figure.subplots()
    for name in losses:
        known = table[["step", name]].dropna()
        validation = name.startswith("val")
        smooth = known[name] if validation else known[name].rolling(max(1, len(known) // 50), min_periods=1).mean()
        axis.plot(known["step"], smooth, "o-" if validation else "-", markersize=3, linewidth=1.2, label=name)
    if table[losses].min().min() > 0:
        axis.set_yscale("log")
    axis.set_xlabel("step")
    axis.set_title(title, fontsize=10)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7, frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def _is_loss(name: str) -> bool:
    """Whether it is a term logged as `train/…` or `val/…`, but no rate or score."""
    stage, _, term = name.partition("/")
    return stage in ("train", "val") and term.removesuffix("_step").removesuffix("_epoch") not in NO_LOSSES
