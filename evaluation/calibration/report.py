"""The reliability plot of bounds: measured against promised coverage, before and after the conformal margins."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from evaluation.intervals.prediction_intervals import Bounds
from evaluation.intervals.quantities import ORGANS, TITLES

BEFORE, AFTER = "#7a8794", "#d1495b"


def reliability_picture(bounds: Bounds) -> Figure | None:
    """A panel a quantity that has a margin at `bounds.level`, exact binomial intervals; None where none was measured.

    A rare tissue may have margins at low levels and none there: it has no panel.
    """
    names = [n for n in dict.fromkeys(row["quantity"] for row in bounds.reliability) if n in bounds.coverage]
    if not names:
        return None
    across = min(4, len(names))
    down = -(-len(names) // across)
    figure = Figure(figsize=(3.0 * across, 3.2 * down + 0.5), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).ravel()
    for axis, name in zip(panels[: len(names)], names, strict=True):
        rows = [row for row in bounds.reliability if row["quantity"] == name]
        levels = np.array([row["level"] for row in rows])
        axis.plot([0, 1], [0, 1], color="#c9ced4", linewidth=1)
        for key, colour, label, move in (
            ("before", BEFORE, "samples alone", -0.006),
            ("after", AFTER, "with margin", 0.006),
        ):
            mean, low, high = (np.array([row[key][part] for row in rows]) for part in ("mean", "low", "high"))
            axis.errorbar(levels + move, mean, np.clip([mean - low, high - mean], 0, None), fmt="o-", color=colour,
                          markersize=4, linewidth=1, elinewidth=0.7, label=label)  # fmt: skip
        width, unit = bounds.coverage[name]["width"], bounds.margins[name]["unit"]
        axis.set_title(f"{TITLES[name]}\n{100 * bounds.level:g} %: {width:.0f} {unit} wide", fontsize=9)
        axis.set_xlim(0.45, 1.0)
        axis.set_ylim(-0.02, 1.02)
        axis.spines[["top", "right"]].set_visible(False)
    panels[0].legend(fontsize=7, frameon=False, loc="lower right")
    for axis in panels[len(names) :]:
        axis.axis("off")
    cases, where = bounds.population.get("test_cases", ""), bounds.population.get("dataset", "the data")
    figure.supxlabel(f"promised coverage; {cases} test cases of {where}", fontsize=9)
    figure.supylabel("measured coverage", fontsize=9)
    return figure


def markdown(bounds: Bounds) -> str:
    """A table, a line a quantity, and the promise in words."""
    percent, cases = f"{100 * bounds.level:g} %", bounds.population.get("calibration_cases", "?")
    lines = [
        f"Bounds of {percent} for {bounds.checkpoint['file']}: {bounds.drawn['samples']} samples by "
        f"{bounds.drawn.get('sampler')} in {bounds.drawn.get('steps')} steps, {cases} calibration cases.",
        "",
        "| bound on | lower end moves by | upper end moves by | mean width | coverage on test cases [95 %] |",
        "|---|---|---|---|---|",
    ]
    for name, margin in bounds.margins.items():
        told = bounds.coverage.get(name)
        measured = "not measured"
        if told:
            measured = (
                f"{told['covered']} of {told['cases']}: {told['mean']:.3f} [{told['low']:.3f}, {told['high']:.3f}]"
            )
        width = "–" if told is None else f"{told['width']:.0f} {margin['unit']}"
        what = TITLES[name] + ("" if name in ORGANS else f", HU of {100 * bounds.share:g} % of its voxels")
        low, high = (f"{sign * margin[end]:+.0f} {margin['unit']}" for sign, end in ((-1, "low"), (1, "high")))
        lines.append(f"| {what} | {low} | {high} | {width} | {measured} |")
    return "\n".join([*lines, "", bounds.words(bounds.gives_organs(nominal=False)), ""])


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
