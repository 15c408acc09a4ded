"""Table, picture and files of the authenticity test."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from common.files import atomic_path, write_json
from dataset.io.nifti import SYNTHETIC
from evaluation.authenticity.memorisation import FEWEST, GROUPS
from evaluation.visualization.text import estimate_text, markdown_table

RESULTS = ("memorisation.*", "metrics.json")
TITLES = {
    "generated": "generated from X-rays of unseen patients",
    "unseen": "true volumes of these patients (null)",
    "unseen, decoded": "the same, encoded and decoded (control)",
    "copies, decoded": "training cases, encoded and decoded (control)",
}
VERDICTS = {
    "memorised": "the generator repeats training cases",
    "not shown": "no memorisation shown",
    "too few patients": f"no verdict: fewer than {FEWEST} unseen patients",
}


def markdown(result: dict) -> str:
    """The table of the groups and the verdict with its p values."""
    rows = []
    for name, group in result["groups"].items():
        share = estimate_text(group["share"], 2)
        ratio, smallest = (f"{group['ratio'][key]:.3f}" for key in ("median", "smallest"))
        far = f"{group['difference_hu']['median']:.0f} HU"
        rows.append([TITLES[name], str(group["volumes"]), ratio, smallest, far, f"{group['copies']}: {share}"])
    head = [
        "volumes",
        "number",
        "ratio, median",
        "ratio, smallest",
        "difference from the nearest",
        "below every unseen",
    ]
    p = ", ".join(f"{name} {'–' if value is None else format(value, '.3g')}" for name, value in result["p"].items())
    difference = estimate_text(result["log_ratio_difference"], 3, sign="+")
    words = f"Log ratio, generated minus unseen: {difference}; p (Holm): {p}. {VERDICTS[result['verdict']]}."
    return "\n".join([f"{SYNTHETIC}.", "", *markdown_table(head, rows), "", words, ""])


def write_memorisation(output: Path, ratios: pd.DataFrame, result: dict, run: dict) -> str:
    """Writes memorisation.csv, .md and .png and metrics.json into `output`; returns the table."""
    output.mkdir(parents=True, exist_ok=True)
    with atomic_path(output / "memorisation.csv") as temporary:
        ratios.to_csv(temporary, index=False, float_format="%.5g")
    write_json(output / "metrics.json", {**result, "run": run})
    table = markdown(result)
    (output / "memorisation.md").write_text(table, encoding="utf-8")
    _picture(ratios, result["limit"]).savefig(output / "memorisation.png", dpi=120)
    return table


def _picture(ratios: pd.DataFrame, limit: float) -> Figure:
    """A point per volume, and the limit below which a volume counts as a copy."""
    figure = Figure(figsize=(8.0, 3.2), layout="constrained")
    axis, jitter = figure.subplots(), np.random.default_rng(0)
    names = [name for name in GROUPS if (ratios.group == name).any()]
    for row, name in enumerate(names):
        values = ratios.ratio[ratios.group == name].to_numpy()
        axis.plot(values, row + jitter.uniform(-0.25, 0.25, len(values)), "o", markersize=4, alpha=0.7)
    axis.axvline(limit, color="#7a8794", linestyle="--", linewidth=1)
    axis.set_yticks(range(len(names)), [TITLES[name] for name in names], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(0.0, 1.02)
    axis.set_xlabel("angle to the nearest training patient / to the second nearest")
    axis.spines[["top", "right"]].set_visible(False)
    return figure
