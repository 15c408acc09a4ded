"""Agreement and scores of pairs, of all and by sex, age, view and finding, as tables."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from common.errors import UserError
from common.files import atomic_path
from evaluation.metrics.catalogue import catalogue
from evaluation.real_pairs.measures import UNITS
from evaluation.statistics.bland_altman import bland_altman
from evaluation.statistics.patient_bootstrap import SHOWN_PATIENTS, Estimate, bootstrap_mean, without_few
from evaluation.visualization.text import estimate_text, markdown_table

ALL = "all"
BY_GROUP = f"By group. Limits and intervals need {SHOWN_PATIENTS} patients."
FINDING = {"1": "yes", "0": "no", "1.0": "yes", "0.0": "no"}  # other values are unknown


def groups_of(rows: pd.DataFrame, findings: Sequence[str], ages: Sequence[int]) -> dict[str, pd.Series]:
    """The group of each pair by name: sex, age, view and the findings; "" where it is unknown.

    `ages` are the first years of each group but the youngest. Names without any known value are missing. UserError for
    a finding that the table lacks.
    """
    if absent := [name for name in findings if name not in rows.columns]:
        raise UserError(f"findings={list(findings)}: no column {absent[0]} in the manifest, found {', '.join(rows)}")
    first = sorted({int(age) for age in ages})
    labels = [
        f"below {first[0]}",
        *(f"{a} to {b - 1}" for a, b in pairwise(first)),
        f"{first[-1]} on",
    ]
    age = pd.to_numeric(rows["age"], errors="coerce").fillna(-1)
    found = {
        "sex": rows["sex"].astype(str).str.strip().str.upper().str[:1].replace("N", ""),
        "age": pd.Series(
            np.where(age < 0, "", np.array(labels)[np.searchsorted(first, age, side="right")]), rows.index
        ),
        "view": rows["view"].astype(str).str.partition(";")[0].str.strip(),
    }
    found |= {name: rows[name].astype(str).str.strip().map(FINDING).fillna("") for name in findings}
    return {name: values for name, values in found.items() if (values != "").any()}


def _parts(groups: dict[str, pd.Series]) -> Iterator[tuple[str, str, np.ndarray | slice]]:
    """Group, level and the positions of its pairs."""
    yield ALL, ALL, slice(None)
    for name, values in groups.items():
        for level in sorted(set(values) - {""}):
            yield name, level, np.flatnonzero(values == level)


def agreement_table(measured: pd.DataFrame, groups: dict[str, pd.Series]) -> pd.DataFrame:
    """Bland-Altman agreement of generated minus true, a row for each method, measure and group.

    Args:
        measured: columns `method`, `patient`, `measure`, `generated`, `true`; the pairs of each method and measure in
            the order of `groups`.
    """
    records = []
    for (method, measure), own in measured.groupby(["method", "measure"], sort=False):
        for group, level, chosen in _parts(groups):
            part = own.iloc[chosen]
            found = bland_altman((part["generated"] - part["true"]).to_numpy(float), part["patient"].to_numpy(str))
            if not found.pairs:
                continue
            spread = part["true"].std() if len(part) > 1 else None
            flat = {"pairs": found.pairs, "patients": found.patients, "true_sd": spread, "sd": found.sd}
            for name in ("bias", "lower", "upper"):
                few = name != "bias" and found.patients < SHOWN_PATIENTS
                estimate = Estimate(None, None, None) if few else getattr(found, name)
                flat |= {name: estimate.mean, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
            records.append({"method": method, "measure": measure, "group": group, "level": level, **flat})
    return pd.DataFrame(records)


def score_table(
    scores: pd.DataFrame, groups: dict[str, pd.Series], metrics: Sequence[str], seed: int = 0
) -> pd.DataFrame:
    """Means of the metrics of one method with their intervals over patients, a row for each metric and group."""
    records = []
    for metric in metrics:
        for group, level, chosen in _parts(groups):
            part = scores.iloc[chosen]
            estimate = bootstrap_mean(part[metric].to_numpy(float), part["patient"].to_numpy(str), seed=seed)
            if estimate.mean is not None:
                known = part.loc[part[metric].notna(), "patient"]
                counts = {"pairs": len(known), "patients": known.nunique()}
                records.append({"metric": metric, "group": group, "level": level, **counts, **estimate.as_dict()})
    return pd.DataFrame(records, columns=["metric", "group", "level", "pairs", "patients", "mean", "low", "high"])


def markdown(agreement: pd.DataFrame, scores: pd.DataFrame, method: str) -> str:
    """Both tables as Markdown: agreement of all methods, scores of `method`, then both of `method` by group."""
    heads = ["pairs (patients)", "bias", "lower limit", "upper limit", "SD of the truth"]
    agreed, scored = agreement["group"] == ALL, scores["group"] == ALL
    lines = [
        "Agreement, generated minus true: bias and 95 % limits of agreement, each with its 95 % interval; limits and "
        f"intervals from {SHOWN_PATIENTS} patients on.",
        "",
    ]
    lines += markdown_table(
        ["measure", "method", *heads], [_agreed(row, row["method"]) for row in _rows(agreement[agreed])]
    )
    lines += ["", f"Scores of {method} after rigid registration.", ""]
    lines += markdown_table(["metric", *heads[:1], "mean"], [_scored(row) for row in _rows(scores[scored])])
    own = agreement[~agreed & (agreement["method"] == method)]
    if len(own):
        by_group = [_agreed(row, f"{row['group']}: {row['level']}") for row in _rows(own)]
        lines += ["", BY_GROUP, "", *markdown_table(["measure", "group", *heads], by_group), ""]
        by_group = [
            [label, f"{row['group']}: {row['level']}", *cells]
            for row in _rows(scores[~scored])
            for label, *cells in [_scored(row)]
        ]
        lines += markdown_table(["metric", "group", *heads[:1], "mean"], by_group)
    return "\n".join(lines) + "\n"


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Writes a table atomically."""
    with atomic_path(path) as temporary:
        table.round(6).to_csv(temporary, index=False)


def _agreed(row: dict, name: str) -> list[str]:
    unit = UNITS.get(row["measure"], " ml")
    digits = 0 if unit else 3
    ends = [
        estimate_text(_estimate(row, key, f"{key}_low", f"{key}_high"), digits, "+")
        for key in ("bias", "lower", "upper")
    ]
    spread = "–" if pd.isna(row["true_sd"]) else f"{row['true_sd']:.{digits}f}"
    return [f"{row['measure']}{' (ml)' * bool(unit)}", name, f"{row['pairs']} ({row['patients']})", *ends, spread]


def _scored(row: dict) -> list[str]:
    metric = catalogue()[row["metric"]]
    text = estimate_text(_estimate(row, "mean", "low", "high"), metric.digits)
    return [metric.label, f"{row['pairs']} ({row['patients']})", text]


def _estimate(row: dict, *names: str) -> dict:
    values = (None if row[name] is None or pd.isna(row[name]) else row[name] for name in names)
    return without_few(dict(zip(("mean", "low", "high"), values, strict=True)), row["patients"])


def _rows(table: pd.DataFrame) -> list[dict]:
    return table.to_dict("records")
