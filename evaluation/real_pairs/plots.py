"""Bland-Altman plots of the measures of pairs."""

from pathlib import Path

import pandas as pd

from common.files import atomic_path
from evaluation.real_pairs.groups import ALL
from evaluation.real_pairs.measures import UNITS
from evaluation.scoring.summary import MODEL


def agreement_plot(measured: pd.DataFrame, agreement: pd.DataFrame, path: Path) -> None:
    """Draws the difference of each pair over the mean of both values, with bias, limits and their intervals (PNG)."""
    from matplotlib.figure import Figure

    whole = agreement[(agreement["group"] == ALL) & (agreement["method"] == MODEL)]
    figure = Figure(figsize=(4.6 * max(1, len(whole)), 3.6), layout="constrained")
    for place, (_, row) in enumerate(whole.iterrows()):
        axes = figure.add_subplot(1, len(whole), place + 1)
        own = measured[(measured["method"] == MODEL) & (measured["measure"] == row["measure"])]
        difference = own["generated"] - own["true"]
        axes.plot((own["generated"] + own["true"]) / 2.0, difference, "o", markersize=4, alpha=0.7)
        for name, style in (("bias", "-"), ("lower", "--"), ("upper", "--")):
            if pd.notna(row[name]):
                axes.axhline(row[name], color="black", linestyle=style, linewidth=1)
            if pd.notna(row[f"{name}_low"]):
                axes.axhspan(row[f"{name}_low"], row[f"{name}_high"], color="black", alpha=0.08, linewidth=0)
        ends = pd.concat([difference, pd.Series([row["lower"], row["upper"]])]).dropna().astype(float)
        room = 0.25 * max(ends.max() - ends.min(), 1e-3)
        axes.set_ylim(ends.min() - room, ends.max() + room)  # intervals of few patients may end far outside
        unit = " (ml)" if UNITS.get(row["measure"], "ml") else ""
        axes.set(title=row["measure"], xlabel=f"mean of generated and true{unit}", ylabel=f"generated - true{unit}")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
