"""Scores by patient and their median, as CSV, Markdown and LaTeX."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from common.files import atomic_path
from evaluation.metrics.catalogue import catalogue
from evaluation.visualization.text import markdown_table

MEDIAN = "median patient"


def by_patient(scores: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Mean over the cases of each patient and method, and the median of the patients, in the order of `scores`.

    Columns `method`, `patient` and the metrics; the row `MEDIAN` of a method follows its patients.
    """
    columns, parts = [name for name in metrics if name in scores.columns], []
    for method, own in scores.groupby("method", sort=False):
        means = own.groupby("patient", sort=False)[columns].mean().reset_index()
        means = pd.concat([means, pd.DataFrame([{"patient": MEDIAN, **means[columns].median()}])])
        parts.append(means.assign(method=method))
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["method", "patient", *columns])
    return table[["method", "patient", *columns]]


def medians(table: pd.DataFrame) -> pd.DataFrame:
    """The rows `MEDIAN` of `by_patient`, a row per method."""
    return table[table.patient == MEDIAN].drop(columns="patient").set_index("method")


def as_text(table: pd.DataFrame, labels: dict[str, str]) -> tuple[list[str], list[list[str]]]:
    """Titles and cells of a table of `by_patient`; values that are not measured are a dash."""
    metrics = [name for name in table.columns if name in catalogue()]
    heads = ["method", "patient", *(catalogue()[name].label for name in metrics)]
    rows = []
    for row in table.to_dict("records"):
        values = ["–" if pd.isna(row[m]) else f"{row[m]:.{catalogue()[m].digits}f}" for m in metrics]
        rows.append([labels.get(row["method"], row["method"]), row["patient"], *values])
    return heads, rows


def markdown(table: pd.DataFrame, labels: dict[str, str]) -> str:
    """The table in Markdown."""
    return "\n".join(markdown_table(*as_text(table, labels))) + "\n"


def latex(table: pd.DataFrame, labels: dict[str, str], caption: str) -> str:
    """The table as a LaTeX `table` with the rules of `booktabs`; a line separates methods."""
    heads, rows = as_text(table, labels)
    lines = [
        "\\begin{table}",
        f"\\caption{{{_escaped(caption)}}}",
        f"\\begin{{tabular}}{{ll{'r' * (len(heads) - 2)}}}",
    ]
    lines += ["\\toprule", f"{' & '.join(map(_escaped, heads))} \\\\"]
    last = None
    for row in rows:
        lines += ["\\midrule"] if row[0] != last else []
        shown, last = ["" if row[0] == last else row[0], *row[1:]], row[0]
        lines.append(f"{' & '.join(map(_escaped, shown))} \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", "\\end{table}"]) + "\n"


def write_tables(folder: Path, table: pd.DataFrame, labels: dict[str, str], caption: str, stem: str = "table") -> None:
    """Writes `<stem>.csv`, `<stem>.md` and `<stem>.tex` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"md": markdown(table, labels), "tex": latex(table, labels, caption)}
    texts["csv"] = table.round(4).to_csv(index=False)
    for ending, text in texts.items():
        with atomic_path(folder / f"{stem}.{ending}") as temporary:
            temporary.write_text(text, encoding="utf-8")


def _escaped(text: str) -> str:
    for character in "&%_#$":
        text = text.replace(character, f"\\{character}")
    return text.replace("–", "--").replace("³", "$^3$")
