"""Pictures of a comparison of classifiers: ROC, precision and recall, reliability, and how they were trained."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.statistics.roc import precision_recall_points, roc_points

COLOURS = ("#22577a", "#d1495b", "#66a182", "#edae49", "#6d597a", "#7a8794", "#00798c", "#b56576")
PALE, GREY, RED = "#c9ced4", "#7a8794", "#d1495b"
GRID = np.linspace(0.0, 1.0, 201)


def roc_picture(scores: pd.DataFrame, result: dict) -> Figure:
    """A curve a classifier; of several folds their mean at each false positive rate, and each fold thin."""
    figure, axis = _square(result, "1 − specificity", "sensitivity")
    axis.plot([0, 1], [0, 1], color=PALE, linewidth=1)
    for name, colour, curves in _curves(scores, result, roc_points):
        auc = result["classifiers"][name]["auc"]
        label = f"{name}: {auc['mean']:.2f} [{auc['low']:.2f}, {auc['high']:.2f}]"
        if len(curves) == 1:
            axis.plot(*curves[0], color=colour, linewidth=1.8, label=label)
            continue
        for curve in curves:
            axis.plot(*curve, color=colour, linewidth=0.5, alpha=0.35)
        mean = np.mean([_steps(fpr, tpr) for fpr, tpr in curves], axis=0)
        axis.plot(np.concatenate([[0.0], GRID]), np.concatenate([[0.0], mean]), color=colour, label=label)
    axis.legend(fontsize=8, frameon=False, loc="lower right", title="AUC [95 %]", title_fontsize=8)
    return figure


def precision_recall_picture(scores: pd.DataFrame, result: dict) -> Figure:
    """A curve a classifier, the mean of its folds at each recall; the line is the prevalence, as of random scores."""
    figure, axis = _square(result, "recall (sensitivity)", "precision (PPV)")
    axis.axhline(result["cases"]["prevalence"]["mean"], color=PALE, linewidth=1, label="prevalence")
    for name, colour, curves in _curves(scores, result, precision_recall_points):
        shown = curves[0]
        if len(curves) > 1:
            reached = [precision[np.searchsorted(recall, GRID[1:] - 1e-12)] for recall, precision in curves]
            shown = GRID[1:], np.mean(reached, axis=0)
        axis.plot(*shown, color=colour, linewidth=1.5, label=name)
    axis.legend(fontsize=8, frameon=False, loc="lower left")
    return figure


def reliability_picture(result: dict) -> Figure:
    """Observed share against predicted probability, before and after recalibration, a panel a classifier."""
    figure, panels = _panels(list(result["classifiers"]), 3.3, 0.3)
    for name, axis in panels.items():
        found = result["classifiers"][name]["calibration"]
        axis.plot([0, 1], [0, 1], color=PALE, linewidth=1)
        for key, colour in (("before", GREY), ("after", RED)):
            bins = pd.DataFrame(found["reliability"][key])
            ends = np.clip([bins.observed - bins.low, bins.high - bins.observed], 0, None)
            label = f"{key}: Brier {found['brier'][key]['mean']:.3f}"
            axis.errorbar(bins.predicted, bins.observed, ends, fmt="o-", color=colour, markersize=4, linewidth=1,
                          elinewidth=0.7, label=label)  # fmt: skip
        axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axis.legend(fontsize=7, frameon=False, loc="upper left")
    figure.supxlabel("predicted probability" + _mark(result), fontsize=9)
    figure.supylabel("observed share of positives", fontsize=9)
    return figure


def training_picture(runs: dict[str, list[Path]]) -> Figure | None:
    """Training loss and validation AUC against the batch, a panel a classifier and a line a fold; None without curves.

    `runs` are folders of training runs, one a fold, by the name of the classifier.
    """
    curves = {name: [_logged(run) for run in folders] for name, folders in runs.items()}
    curves = {name: [t for t in tables if t is not None] for name, tables in curves.items()}
    curves = {name: tables for name, tables in curves.items() if tables}
    if not curves:
        return None
    figure, panels = _panels(list(curves), 2.6)
    for name, axis in panels.items():
        for index, table in enumerate(curves[name]):
            for column, colour, label in (("train/loss", GREY, "loss"), ("val/auc", RED, "validation AUC")):
                known = table[["step", column]].dropna()
                shown = known[column]
                if column == "train/loss":
                    shown = shown.rolling(max(1, len(known) // 20), min_periods=1).mean()
                axis.plot(known["step"], shown, color=colour, linewidth=1.2, label=None if index else label)
        axis.set_ylim(0, None)
        axis.legend(fontsize=7, frameon=False)
    figure.supxlabel("batch", fontsize=9)
    return figure


def _curves(scores: pd.DataFrame, result: dict, points: Callable) -> list[tuple[str, str, list[tuple]]]:
    """Name, colour and one curve a fold of each classifier on its test cases."""
    folds = [part for _, part in scores[scores.part == "test"].groupby("fold")]
    return [
        (
            name,
            COLOURS[i % len(COLOURS)],
            [points(part[name].to_numpy(float), part.label.to_numpy()) for part in folds],
        )
        for i, name in enumerate(result["classifiers"])
    ]


def _logged(run: Path) -> pd.DataFrame | None:
    """What a run logged to CSV; of several files, after a resume, all in order."""
    files = sorted(run.glob("curves*/metrics.csv"), key=lambda file: file.stat().st_mtime)
    tables = [pd.read_csv(file) for file in files if file.stat().st_size]
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    return table if {"step", "train/loss", "val/auc"} <= set(table.columns) else None


def _steps(fpr: np.ndarray, tpr: np.ndarray) -> np.ndarray:
    """Sensitivity at the false positive rates of the grid; the higher end of a vertical step."""
    highest = np.array([tpr[fpr <= x + 1e-12].max() for x in GRID])
    return np.maximum(highest, np.interp(GRID, fpr, tpr))


def _square(result: dict, x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.6, 5.6), layout="constrained")
    axis = figure.subplots()
    axis.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal", xlabel=x, ylabel=y)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_title(f"{result['cases']['test']} test cases{_mark(result)}", fontsize=10)
    return figure, axis


def _panels(names: list[str], height: float, margin: float = 0.0) -> tuple[Figure, dict[str, Axes]]:
    """A figure with a titled panel for each name, at most four beside each other."""
    across = min(4, len(names))
    down = -(-len(names) // across)
    figure = Figure(figsize=(3.1 * across, height * down + margin), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).ravel()
    panels = dict(zip(names, axes[: len(names)], strict=True))
    for name, axis in panels.items():
        axis.set_title(name, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[len(names) :]:
        axis.axis("off")
    return figure, panels


def _mark(result: dict) -> str:
    return " (phantoms, not patients)" if result["protocol"].get("phantoms") else ""
