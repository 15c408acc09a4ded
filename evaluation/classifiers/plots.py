"""Pictures of a comparison of classifiers: ROC, precision and recall, reliability, and how they were trained."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from evaluation.classifiers.comparison import curves_of
from evaluation.statistics.roc import precision_recall_points, roc_points

COLOURS = ("#22577a", "#d1495b", "#66a182", "#edae49", "#6d597a", "#7a8794", "#00798c", "#b56576")
GRID = np.linspace(0.0, 1.0, 201)


def roc_picture(scores: pd.DataFrame, result: dict) -> Figure:
    """A curve a classifier; of several folds their mean at each false positive rate, and each fold thin."""
    figure, axis = _square(result)
    axis.plot([0, 1], [0, 1], color="#c9ced4", linewidth=1)
    for index, (name, one) in enumerate(result["classifiers"].items()):
        colour = COLOURS[index % len(COLOURS)]
        curves = [roc_points(*fold) for fold in curves_of(scores, name)]
        label = f"{name}: {one['auc']['mean']:.2f} [{one['auc']['low']:.2f}, {one['auc']['high']:.2f}]"
        if len(curves) == 1:
            axis.plot(*curves[0], color=colour, linewidth=1.8, label=label)
            continue
        for curve in curves:
            axis.plot(*curve, color=colour, linewidth=0.5, alpha=0.35)
        mean = np.mean([_steps(fpr, tpr) for fpr, tpr in curves], axis=0)
        axis.plot(np.concatenate([[0.0], GRID]), np.concatenate([[0.0], mean]), color=colour, label=label)
    axis.set_xlabel("1 − specificity")
    axis.set_ylabel("sensitivity")
    axis.legend(fontsize=8, frameon=False, loc="lower right", title="AUC [95 %]", title_fontsize=8)
    return figure


def precision_recall_picture(scores: pd.DataFrame, result: dict) -> Figure:
    """A curve a classifier; of several folds their mean at each recall. A classifier that knows nothing reaches the
    line, which is the prevalence."""
    figure, axis = _square(result)
    axis.axhline(result["cases"]["prevalence"]["mean"], color="#c9ced4", linewidth=1, label="prevalence")
    grid = GRID[1:]
    for index, name in enumerate(result["classifiers"]):
        colour = COLOURS[index % len(COLOURS)]
        curves = [precision_recall_points(*fold) for fold in curves_of(scores, name)]
        if len(curves) == 1:
            axis.plot(*curves[0], color=colour, linewidth=1.5, label=name)
            continue
        reached = [precision[np.searchsorted(recall, grid - 1e-12)] for recall, precision in curves]
        axis.plot(grid, np.mean(reached, axis=0), color=colour, linewidth=1.5, label=name)
    axis.set_xlabel("recall (sensitivity)")
    axis.set_ylabel("precision (PPV)")
    axis.legend(fontsize=8, frameon=False, loc="lower left")
    return figure


def reliability_picture(result: dict) -> Figure:
    """Observed share against predicted probability, before and after recalibration, a panel a classifier."""
    names = list(result["classifiers"])
    across = min(4, len(names))
    down = -(-len(names) // across)
    figure = Figure(figsize=(3.1 * across, 3.3 * down + 0.3), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for axis, name in zip(panels[: len(names)], names, strict=True):
        said = result["classifiers"][name]["calibration"]
        axis.plot([0, 1], [0, 1], color="#c9ced4", linewidth=1)
        for key, colour in (("before", "#7a8794"), ("after", "#d1495b")):
            bins = said["reliability"][key]
            x, y = (np.array([b[k] for b in bins]) for k in ("predicted", "observed"))
            below, above = y - [b["low"] for b in bins], np.array([b["high"] for b in bins]) - y
            label = f"{key}: Brier {said['brier'][key]['mean']:.3f}"
            axis.errorbar(x, y, np.clip([below, above], 0, None), fmt="o-", color=colour, markersize=4, linewidth=1,
                          elinewidth=0.7, label=label)  # fmt: skip
        axis.set_title(name, fontsize=10)
        axis.set_xlim(-0.02, 1.02)
        axis.set_ylim(-0.02, 1.02)
        axis.legend(fontsize=7, frameon=False, loc="upper left")
        axis.spines[["top", "right"]].set_visible(False)
    for axis in panels[len(names) :]:
        axis.axis("off")
    figure.supxlabel("predicted probability" + _mark(result), fontsize=9)
    figure.supylabel("observed share of positives", fontsize=9)
    return figure


def training_picture(runs: dict[str, list[Path]]) -> Figure | None:
    """Training loss and validation AUC against the batch, a panel a classifier and a line a fold; None without curves.

    Args:
        runs: folders of training runs, one a fold, by the name of the classifier.
    """
    curves = {
        name: [table for run in folders if (table := _logged(run)) is not None] for name, folders in runs.items()
    }
    curves = {name: tables for name, tables in curves.items() if tables}
    if not curves:
        return None
    across = min(4, len(curves))
    down = -(-len(curves) // across)
    figure = Figure(figsize=(3.1 * across, 2.6 * down), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for axis, (name, tables) in zip(panels[: len(curves)], curves.items(), strict=True):
        for index, table in enumerate(tables):
            for column, colour, label in (("train/loss", "#7a8794", "loss"), ("val/auc", "#d1495b", "validation AUC")):
                known = table[["step", column]].dropna()
                shown = known[column].rolling(max(1, len(known) // 20), min_periods=1).mean()
                shown = shown if column == "train/loss" else known[column]
                axis.plot(known["step"], shown, color=colour, linewidth=1.2, label=None if index else label)
        axis.set_title(name, fontsize=10)
        axis.set_ylim(0, None)
        axis.legend(fontsize=7, frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in panels[len(curves) :]:
        axis.axis("off")
    figure.supxlabel("batch", fontsize=9)
    return figure


def _logged(run: Path) -> pd.DataFrame | None:
    """What a run logged to CSV; of several files, after a resume, all in order."""
    files = sorted(run.glob("curves*/metrics.csv"), key=lambda file: file.stat().st_mtime)
    tables = [pd.read_csv(file) for file in files if file.stat().st_size]
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    return table if {"step", "train/loss", "val/auc"} <= set(table.columns) else None


def _steps(fpr: np.ndarray, tpr: np.ndarray) -> np.ndarray:
    """Sensitivity at the false positive rates of the grid; the higher end of a vertical step."""
    highest = np.array([tpr[fpr <= x + 1e-12].max() for x in GRID])
    between = np.interp(GRID, fpr, tpr)
    return np.maximum(highest, between)


def _square(result: dict):
    figure = Figure(figsize=(5.6, 5.6), layout="constrained")
    axis = figure.subplots()
    axis.set_xlim(-0.01, 1.01)
    axis.set_ylim(-0.01, 1.01)
    axis.set_aspect("equal")
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_title(f"{result['cases']['test']} test cases{_mark(result)}", fontsize=10)
    return figure, axis


def _mark(result: dict) -> str:
    return " (phantoms, not patients)" if result["protocol"].get("phantoms") else ""
