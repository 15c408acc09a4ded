"""Table and reliability plot of prediction intervals: measured against nominal coverage."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from evaluation.intervals.prediction_intervals import PredictionIntervals
from evaluation.intervals.quantities import LEAST_ACCURACY, ORGANS, TITLES, title
from evaluation.visualization.text import estimate_text, markdown_table

RESULTS = ("bounds.md", "bounds_scores.csv", "reliability.png")
BEFORE, AFTER = "#7a8794", "#d1495b"


def reliability_picture(intervals: PredictionIntervals) -> Figure | None:
    """A panel for each quantity with a margin at `intervals.level`, with exact binomial intervals; None without."""
    names = [n for n in dict.fromkeys(row["quantity"] for row in intervals.reliability) if n in intervals.coverage]
    if not names:
        return None
    across = min(4, len(names))
    down = -(-len(names) // across)
    figure = Figure(figsize=(3.0 * across, 3.2 * down + 0.5), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).ravel()
    for axis, name in zip(panels[: len(names)], names, strict=True):
        rows = [row for row in intervals.reliability if row["quantity"] == name]
        levels = np.array([row["level"] for row in rows])
        axis.plot([0, 1], [0, 1], color="#c9ced4", linewidth=1)
        for key, colour, label, move in (
            ("before", BEFORE, "samples alone", -0.006),
            ("after", AFTER, "with margin", 0.006),
        ):
            mean, low, high = (np.array([row[key][part] for row in rows]) for part in ("mean", "low", "high"))
            axis.errorbar(levels + move, mean, np.clip([mean - low, high - mean], 0, None), fmt="o-", color=colour,
                          markersize=4, linewidth=1, elinewidth=0.7, label=label)  # fmt: skip
        width, unit = intervals.coverage[name]["width"], intervals.margins[name]["unit"]
        named = title(name, intervals.population.get("regions"))
        axis.set_title(f"{named}\n{100 * intervals.level:g} %: {width:.0f} {unit} wide", fontsize=9)
        axis.set_xlim(0.45, 1.0)
        axis.set_ylim(-0.02, 1.02)
        axis.spines[["top", "right"]].set_visible(False)
    panels[0].legend(fontsize=7, frameon=False, loc="lower right")
    for axis in panels[len(names) :]:
        axis.axis("off")
    cases, where = intervals.population.get("test_cases", ""), intervals.population.get("dataset", "the data")
    figure.supxlabel(f"nominal coverage; {cases} test cases of {where}", fontsize=9)
    figure.supylabel("measured coverage", fontsize=9)
    return figure


def markdown(intervals: PredictionIntervals) -> str:
    """A table with a row for each quantity, and the coverage guarantee in words; p is that of `coverage_p`."""
    accuracy = intervals.population.get("regions")
    drawn, cases = intervals.drawn, intervals.population.get("calibration_cases", "?")
    heading = (
        f"Prediction intervals of {100 * intervals.level:g} % for {intervals.checkpoint['file']}: {drawn['samples']} "
        f"samples by {drawn.get('sampler')} in {drawn.get('steps')} steps, {cases} calibration cases."
    )
    head, rows = (
        ["interval of", "lower end moves by", "upper end moves by", "mean width", "coverage on test cases"],
        [],
    )
    for name, margin in intervals.margins.items():
        found, width, measured = intervals.coverage.get(name), "–", "not measured"
        if found:
            width = f"{found['width']:.0f} {margin['unit']}"
            measured = f"{found['covered']} of {found['cases']}: {estimate_text(found, 3)}"
            measured += f", p {found['p']:.2g}" if "p" in found else ""
        what = title(name, accuracy) + ("" if name in ORGANS else f", HU of {100 * intervals.share:g} % of its voxels")
        low, high = (f"{sign * margin[end]:+.0f} {margin['unit']}" for sign, end in ((-1, "low"), (1, "high")))
        rows.append([what, low, high, width, measured])
    words = intervals.words(intervals.has_organs(nominal=False))
    table = [heading, "", *markdown_table(head, rows), ""]
    return "\n".join([*table, *_names(accuracy), *_withheld(intervals), *_evidence(intervals), words, ""])


def _withheld(intervals: PredictionIntervals) -> list[str]:
    """What the test of input shift compares, and how many test X-rays get no interval by it."""
    found = intervals.population.get("withheld")
    if found is None or intervals.shift is None:
        return []
    also = " and chi² of the first prediction's re-projection" if intervals.shift.get("chi2") else ""
    return [
        f"The test of input shift compares distance, exponent{also}. It withholds the interval of {found['covered']} "
        f"of {found['cases']} test X-rays: {estimate_text(found, 3)}.",
        "",
    ]


def _names(accuracy: dict[str, dict] | None) -> list[str]:
    """A table of precision and recall of the regions, and what they decide."""
    rule = f"A region has an anatomical name if precision and recall against labels are above {LEAST_ACCURACY:g}."
    if not accuracy:
        return [f"{rule} The calibration cases have no labels.", ""]
    rows = [
        [
            TITLES[name],
            f"{found['precision']:.2f}",
            f"{found['recall']:.2f}",
            str(found["cases"]),
            title(name, accuracy),
        ]
        for name, found in accuracy.items()
    ]
    head = ["region of the generated mean", "precision", "recall", "calibration cases", "called here"]
    return [rule, "", *markdown_table(head, rows), ""]


def _evidence(intervals: PredictionIntervals) -> list[str]:
    """Reliability of evidence maps of the test cases, as the samples give them and through the curve."""
    evidence = intervals.population.get("evidence")
    if not evidence:
        return []
    rows, found = [], evidence["reliability"]
    for both in zip(found["samples"]["bins"], found["calibrated"]["bins"], strict=True):
        cells = []
        for row in both:
            error = row["error"] and {key: None if v is None else 100.0 * v for key, v in row["error"].items()}
            values = ["–", "–"] if error is None else [f"{100 * row['expected']:.0f}", estimate_text(error, 0)]
            cells += [f"{100 * row['voxels']:.1f}", *values]
        rows.append([f"{100 * both[0]['from']:.0f} to {100 * both[0]['to']:.0f}", *cells])
    columns = ("voxels, %", "expected error, %", "error, %")
    head = ["evidence, %", *columns, *(f"{column}, calibrated" for column in columns)]
    gaps = " and ".join(f"{100 * found[name]['gap']:.0f}" for name in ("samples", "calibrated"))
    return [
        f"Evidence maps of the test cases, without and with the curve of {evidence['curve']['cases']} calibration "
        f"cases: mean difference of {gaps} points. Errors in percent of the variance of training volumes.",
        "",
        *markdown_table(head, rows),
        "",
    ]


def write_calibration(intervals: PredictionIntervals, scores: pd.DataFrame, output: Path, path: Path) -> Path:
    """Writes the intervals to `path`; scores, table and, if coverage was measured, the plot into `output`."""
    output.mkdir(parents=True, exist_ok=True)
    scores.to_csv(output / "bounds_scores.csv", index=False, float_format="%.6g")
    written = intervals.write(path)
    (output / "bounds.md").write_text(markdown(intervals), encoding="utf-8")
    figure = reliability_picture(intervals)
    if figure is not None:
        figure.savefig(output / "reliability.png", dpi=120)
    return written
