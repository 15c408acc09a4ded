"""Sections of the report from the files of a folder: tables, cases, limits, classification."""

import base64
import io
import re
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from common.files import newest
from evaluation.generation.xray_warnings import MAX_DISTANCE
from evaluation.metrics.catalogue import catalogue
from evaluation.scoring.summary import LABELS, METRIC_LABELS, badness, measured_names, smallest_p
from evaluation.statistics.significance import ALPHA
from evaluation.visualization.text import estimate_text

FEW_CASES = 30
CURVES = (  # pictures of a classification folder, in order, and whether one needs the whole width
    ("roc.png", "ROC: sensitivity against 1 − specificity", False),
    ("precision_recall.png", "Precision and recall", False),
    ("reliability.png", "Calibration: predicted against observed, before and after recalibration", True),
    ("training.png", "Training of the classifiers: loss, and AUC on the validation cases", True),
)


def method_row(
    method: str,
    values: dict,
    columns: list[str],
    best: dict[str, str | None],
    blank: dict[str, str],
    cases: int,
    sign: str = "",
) -> dict:
    """One method of a table: its cells with interval and p value, `blank[metric]` where there is no number.

    A cell counts its cases where they are fewer than `cases`.
    """
    cells = []
    for metric in columns:
        estimate, digits = values.get(metric), catalogue()[metric].digits
        if estimate is None:
            cells.append({"mean": blank.get(metric, "n/a")})
            continue
        cell = {"mean": f"{estimate['mean']:{sign}.{digits}f}", "best": best.get(metric) == method}
        if estimate.get("cases", cases) < cases:
            cell["cases"] = f"{estimate['cases']} of {cases} cases"
        if estimate["low"] is not None:
            cell["interval"] = f"{estimate['low']:{sign}.{digits}f} … {estimate['high']:{sign}.{digits}f}"
        if estimate.get("p_holm") is not None:
            cell["p"] = f"= {estimate['p_holm']:.2g}" if estimate["p_holm"] >= 0.001 else "< 0.001"
        cells.append(cell)
    return {"method": method, "label": LABELS.get(method, method), "cells": cells}


def rank_part(ranks: dict | None) -> dict | None:
    """The rank histogram: its shares in percent with their interval, and its deviation; None without one."""
    if not ranks:
        return None
    percent = [{key: None if v is None else 100.0 * v for key, v in share.items()} for share in ranks["shares"]]
    return {
        "shares": [estimate_text(share, 1) for share in percent],
        "flat": f"{100.0 * ranks['flat']:.1f}",
        "deviation": estimate_text(ranks["deviation"], 3),
    }


def evidence_part(reliability: dict | None) -> dict | None:
    """The reliability of evidence maps: rows in percent, mean gap, training cases; None without maps."""
    if not reliability:
        return None

    def percent(value: float | None) -> str:
        return "n/a" if value is None else f"{100.0 * value:.0f}"

    rows = [
        {
            "evidence": f"{100.0 * row['from']:.0f} to {100.0 * row['to']:.0f}",
            "voxels": f"{100.0 * row['voxels']:.1f}",
            "expected": percent(row["expected"]),
            "error": "n/a"
            if row["error"] is None
            else estimate_text({key: None if v is None else 100.0 * v for key, v in row["error"].items()}, 0),
        }
        for row in reliability["bins"]
    ]
    cases = reliability.get("calibrated_on")
    calibrated = f"calibrated on {cases} other cases" if cases else "as the samples give them, not calibrated"
    training, gap = reliability["training_cases"], f"{100.0 * reliability['gap']:.0f}"
    return {"rows": rows, "gap": gap, "training": training, "calibrated": calibrated}


def input_shift_part(tested: dict | None) -> str | None:
    """Which X-rays get no prediction interval by the test of input shift, in sentences; None without such a test."""
    if not tested:
        return None
    reason, withheld, count = tested["reason"], tested["withheld"], len(tested["p"])
    if not count:
        return f"No volume has a prediction interval, and no X-ray was tested: {reason}."
    chi2 = tested["chi2"]
    known = "" if chi2 == count else f" (known for {chi2})"
    compares = "distance, exponent" if chi2 is None else f"distance, exponent and chi² of the first prediction{known}"
    names = ", ".join(f"{name} (p {tested['p'][name]:.2g})" for name in withheld)
    share, named = f"{len(withheld)} of the {count} X-rays", f": {names}" if names else ""
    verdict = f"It withholds the prediction intervals of {share}{named}."
    if reason:
        verdict = f"Unlike them are {share}{named}. No volume has a prediction interval here ({reason})."
    return (
        f"The test of input shift ({compares}; p below {tested['level']:g}) compares the X-rays with those of the "
        f"calibration. {verdict} The scores of this page include all X-rays. The test does not prove that an "
        "interval holds."
    )


def case_table(scores: pd.DataFrame, method: str) -> dict:
    """Every case of a method from the best to the worst: rows with `rank`, `place` and cells.

    `place` names the best, the median and the worst. Cases are ranked by PSNR, or by the first metric there is.
    """
    rows = scores[scores.method == method]
    columns = [name for name in measured_names(scores) if rows[name].notna().any()]
    if not columns:
        return {"columns": [], "rows": [], "by": None}
    by = "psnr" if "psnr" in columns else columns[0]
    rows = rows.assign(badness=badness(by, rows[by])).sort_values("badness", kind="stable", na_position="last")
    places = {0: "best", (len(rows) - 1) // 2: "median", len(rows) - 1: "worst"} if len(rows) > 2 else {}
    shown = [
        {
            "id": row["id"],
            "rank": rank + 1,
            "place": places.get(rank, ""),
            "cells": ["n/a" if pd.isna(row[c]) else f"{row[c]:.{catalogue()[c].digits}f}" for c in columns],
        }
        for rank, (_, row) in enumerate(rows.iterrows())
    ]
    return {"columns": [METRIC_LABELS[name] for name in columns], "rows": shown, "by": METRIC_LABELS[by]}


def limits(protocol: dict, comparisons: int) -> list[str]:
    """Limits of the results, one sentence each, general ones first."""
    found = [
        "Research software. No number here says that a generated volume helps a patient or a reader, and none may be "
        "used for a diagnosis.",
        "Intervals cover the choice of patients for this one training run, not another run of the training.",
    ]
    if str(protocol.get("dataset")).startswith("phantom"):
        found.append("The cases are drawn phantoms: nothing follows for patients.")
    if seen := (protocol.get("seen_patients") or {}).get("train"):
        found.append(f"NO EVIDENCE: the generator was trained on {seen} of these patients.")
    if unlike := protocol.get("xrays_unlike_training"):
        found.append(
            f"{unlike} of the X-rays are more than {MAX_DISTANCE:g} times as far from the mean training X-ray as the "
            "farthest training X-ray. This distance does not show that the others are like the training."
        )
    if protocol["cases"] < FEW_CASES:
        found.append(f"Few cases ({protocol['cases']}): a single unusual patient may decide a result.")
    if comparisons and smallest_p(protocol["patients"], comparisons) > ALPHA:
        found.append(
            f"With {protocol['patients']} patients and {comparisons} comparisons no difference could have reached "
            f"p ≤ {ALPHA:g}, whatever its size."
        )
    sources = {name for name, count in (protocol.get("data", {}).get("xray_sources") or {}).items() if count}
    if sources and sources <= {"drr", "drr_contrast"}:
        found.append(
            "The X-rays were computed from the CTs (DRR): a radiograph has scatter, another pose and another day."
        )
    if "drr_contrast" in sources:
        found.append(
            "X-rays computed from contrast CTs show iodine, which radiographs do not: these results are not X-ray "
            "evidence."
        )
    low, high = protocol["window"]
    found.append(
        f"The model represents HU from {low:g} to {high:g} only; regions outside of this window were not evaluated."
    )
    if protocol.get("registration") == "rigid":
        found.append("Volumes were registered to the truth before scoring: errors of position are not counted.")
    return found


def classification_part(folder: Path | None) -> dict | None:
    """Table, ROC and calibration of a folder of `evaluation/classification.py`; None where there is none."""
    if folder is None or not folder.is_dir():
        return None
    pictures = [
        {"data": file_uri(folder / name), "name": text, "wide": wide}
        for name, text, wide in CURVES
        if (folder / name).is_file()
    ]
    table = folder / "table.md"
    blocks = markdown_blocks(table.read_text(encoding="utf-8")) if table.is_file() else []
    return {"blocks": blocks, "pictures": pictures} if blocks or pictures else None


def markdown_blocks(text: str) -> list[dict]:
    """Blocks of plain Markdown: `{"table": {"head", "rows"}}`, `{"list": [...]}` or `{"text": …}`; bold marks go."""
    blocks: list[dict] = []
    for part in re.split(r"\n\s*\n", text.strip()):
        lines = [line.strip() for line in part.splitlines()]
        if len(lines) > 2 and lines[0].startswith("|") and re.fullmatch(r"[|\s:-]+", lines[1]):
            rows = [[cell.strip().replace("**", "") for cell in line.strip("|").split("|")] for line in lines]
            blocks.append({"table": {"head": rows[0], "rows": rows[2:]}})
        elif all(line.startswith("- ") for line in lines):
            blocks.append({"list": [line[2:].replace("**", "") for line in lines]})
        else:
            blocks.append({"text": " ".join(lines).replace("**", "").lstrip("# ")})
    return blocks


def newest_texts(runs: dict[str, str | Path], name: str) -> dict[str, str]:
    """The newest file `name` below each folder, by title."""
    files = {title: newest(Path(run).glob(f"**/{name}")) for title, run in runs.items()}
    return {title: file.read_text(encoding="utf-8") for title, file in files.items() if file is not None}


def file_uri(path: Path) -> str | None:
    """Data URI of a picture; None if the file does not exist."""
    return _uri(path.suffix, path.read_bytes()) if path.is_file() else None


def figure_uri(figure: Figure | None) -> str | None:
    """Data URI of a chart."""
    if figure is None:
        return None
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return _uri(".png", buffer.getvalue())


def _uri(suffix: str, content: bytes) -> str:
    return f"data:image/{suffix[1:]};base64,{base64.b64encode(content).decode()}"
