"""Writes an analysis: JSON, Markdown, the answers as a table and as bars."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from common.files import write_json
from evaluation.readers.design import ARM_LABELS, ARMS
from evaluation.readers.questions import IDENTITY
from evaluation.visualization.text import estimate_text, markdown_table

COLOURS = ("#b2182b", "#ef8a62", "#d9d9d9", "#67a9cf", "#2166ac")  # from the worst answer to the best


RESULTS = ("analysis.json", "analysis.md", "distributions.csv", "distributions.png")  # files of an analysis


def write_analysis(folder: Path, result: dict) -> Path:
    """Writes `analysis.json`, `analysis.md` and the distributions as CSV and PNG; returns the path of the page."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "analysis.json", result)
    distributions(result).to_csv(folder / "distributions.csv", index=False)
    distribution_chart(result).savefig(folder / "distributions.png", dpi=120)
    path = folder / "analysis.md"
    path.write_text(page(result), encoding="utf-8")
    return path


def distributions(result: dict) -> pd.DataFrame:
    """Rows `question, arm, answer, choice, count, share` of first readings."""
    rows = []
    for name, entry in result["questions"].items():
        for arm in ARMS:
            counts = entry["distribution"][arm]
            for number, (choice, count) in enumerate(zip(entry["choices"], counts, strict=True), start=1):
                share = round(count / sum(counts), 4) if sum(counts) else float("nan")
                rows.append((name, arm, number, choice, count, share))
    return pd.DataFrame(rows, columns=["question", "arm", "answer", "choice", "count", "share"])


def distribution_chart(result: dict) -> Figure:
    """A bar an arm for each question, divided by the shares of its answers."""
    table, names = distributions(result), list(result["questions"])
    figure = Figure(figsize=(9.5, 1.75 * len(names) + 0.3), layout="constrained")
    for axis, name in zip(figure.subplots(len(names), 1, squeeze=False)[:, 0], names, strict=True):
        choices = result["questions"][name]["choices"]
        colours = [COLOURS[round(i * (len(COLOURS) - 1) / (len(choices) - 1))] for i in range(len(choices))]
        if result["questions"][name]["kind"] == IDENTITY:
            colours.reverse()  # real comes first and is the better answer
        for row, arm in enumerate(ARMS):
            shares = table[(table.question == name) & (table.arm == arm)].share.fillna(0.0)
            for share, end, colour in zip(shares, shares.cumsum(), colours, strict=True):
                axis.barh(row, share, left=end - share, color=colour, height=0.72, edgecolor="white", linewidth=0.8)
                if share > 0.05:
                    dark = colour in (COLOURS[0], COLOURS[-1])
                    axis.text(end - share / 2, row, f"{100 * share:.0f} %", ha="center", va="center", fontsize=8,
                              color="white" if dark else "#1d2530")  # fmt: skip
        axis.set_yticks(range(len(ARMS)), [ARM_LABELS[arm] for arm in ARMS], fontsize=9)
        axis.invert_yaxis()
        axis.set_xlim(0, 1)
        axis.set_xticks([])
        axis.spines[:].set_visible(False)
        axis.set_title(name, loc="left", fontsize=10, fontweight="bold")
        handles = [axis.barh(0, 0, color=colour) for colour in colours]
        axis.legend(handles, choices, ncols=len(choices), fontsize=7.5, frameon=False, loc="upper center",
                    bbox_to_anchor=(0.5, 0.04), handlelength=1.0, columnspacing=1.2)  # fmt: skip
    return figure


def page(result: dict) -> str:
    """The analysis as Markdown: the statement, its data, and every number with its interval."""
    draws, level = result["bootstrap"]["draws"], round(100 * result["bootstrap"]["level"])
    volumes = ", ".join(f"{ARM_LABELS[arm]} {count}" for arm, count in result["volumes"].items())
    lines = ["# Reader study", "", result["statement"], ""]
    lines += [f"> {warning}" for warning in result["warnings"]] + [""] * bool(result["warnings"])
    lines += [
        f"{result['readers']} readers, {result['patients']} patients; volumes: {volumes}. First readings only: "
        f"{result['first_readings']}, missing {result['missing_readings']}. Intervals resample readers and "
        f"patients ({draws} draws); {level} % unless another is named.",
        "",
    ]
    for name, entry in result["questions"].items():
        counts = {ARM_LABELS[arm]: entry["distribution"][arm] for arm in ARMS}
        cells = [
            (arm, *(f"{count} ({100 * count / max(1, sum(row)):.0f} %)" for count in row))
            for arm, row in counts.items()
        ]
        lines += [f"## {name}", "", *markdown_table(("", *entry["choices"]), cells)]
        if "rates" in entry:
            lines.append("")
        for pair, rate in entry.get("rates", {}).items():
            level = f"{100 * rate['level']:.0f} % interval"
            lines.append(f"- {pair}: identified correctly in {_percent(rate)} ({level}): {rate['verdict']}")
        if "rates" in entry:
            each = ", ".join(f"{reader} {100 * rate:.0f} %" for reader, rate in entry["rate_by_reader"].items())
            lines.append(f"- real against generated, each reader: {each}")
        for pair, estimate in entry.get("higher", {}).items():
            chance = f"{_percent(estimate)} of pairs (50 % = no difference, ties half)"
            lines.append(f"- {pair}: rated higher by the same reader in {chance}")
        for arm, estimate in entry.get("auc", {}).items():
            value = entry["not_measured"].get(arm)
            if value is None:
                counts = f"{estimate['positive']} with and {estimate['negative']} without PE"
                value = f"{_number(estimate)}, {counts}"
            lines.append(f"- PE, {ARM_LABELS[arm]}: reader AUC {value}")
        for pair, estimate in entry.get("auc_differences", {}).items():
            lines.append(f"- PE, {pair}: AUC {_number(estimate, '+')}")
        if "alpha" in entry:
            alphas = "; ".join(f"{ARM_LABELS.get(arm, arm)} {_number(a)}" for arm, a in entry["alpha"].items())
            lines.append(f"- agreement between readers, Krippendorff's alpha (ordinal): {alphas}")
        if entry["agreement_within_readers"]:
            own = entry["agreement_within_readers"]
            equal = f"{100 * own['equal']:.0f} % equal answers in {own['pairs']} repeats"
            lines.append(f"- agreement within readers: {equal}, alpha {_number(own['alpha'])}")
        lines.append("")
    return "\n".join(lines)


def _number(estimate: dict, sign: str = "") -> str:
    return estimate_text(estimate, 2, sign, missing="not measured", single=" (no interval)")


def _percent(estimate: dict) -> str:
    scaled = {key: None if estimate[key] is None else 100.0 * estimate[key] for key in ("mean", "low", "high")}
    return estimate_text(scaled, 0, unit=" %", missing="not measured", single=" (no interval)")
