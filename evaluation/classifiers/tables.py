"""The table of classifiers, one row each, in Markdown, CSV and as a picture."""

import hashlib
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from omegaconf import DictConfig

from common.environment import machine
from common.files import atomic_path
from dataset.imaging.geometry import FRONTAL_VIEWS
from evaluation.classifiers.generated_cases import Generators
from evaluation.classifiers.hypotheses import PRIMARY
from evaluation.classifiers.plots import precision_recall_picture, reliability_picture, roc_picture, training_picture
from evaluation.scoring.summary import write_metrics
from evaluation.statistics.roc import LEVEL

WHAT = {
    "ct": "CTPA",
    "xray": "X-ray",
    "generated": "generated CTPA",
    "ct on generated": "generated CTPA",
    "metadata": "no picture",
}
HEADERS = ("classifier", "input", "AUC", "accuracy", "specificity", "sensitivity", "PPV", "NPV")
RATES = ("accuracy", "specificity", "sensitivity", "ppv", "npv")


def markdown(result: dict) -> str:
    """The tables of both thresholds, the comparisons in sentences, and the limits."""
    counts, lines = result["cases"], []
    mark = " **Phantoms, not patients.**" if result["protocol"].get("phantoms") else ""
    folds = f" in {counts['folds']} folds" if counts["folds"] > 1 else ""
    share = _span(counts["prevalence"])
    lines += [
        f"{counts['test']} test cases of {counts['patients']} patients{folds}, prevalence {share}.{mark}",
        "Intervals are 95 %: DeLong's of AUC (table.csv has the bootstrap's beside), Wilson's of proportions.",
        "",
    ]
    titles = {
        "youden": "At Youden's threshold of the validation cases",
        "sensitive": f"At the threshold with a sensitivity of {result['sensitivity']:g} on the validation cases",
    }
    for key, title in titles.items():
        lines += [f"{title}:", "", _line(HEADERS), _line(["---"] * len(HEADERS))]
        lines += [_line(row) for row in rows(result, key)]
        lines.append("")
    lines += [f"- {result['primary']['stated']}.", f"- {result['primary']['sentence']}"]
    lines += [f"- {result['non_inferiority']['sentence']}"]
    lines += [f"- {row['sentence']}" for row in result["comparisons"]]
    lines += [f"- {name}: {note}." for name, one in result["classifiers"].items() for note in one["notes"]]
    lines += [
        "",
        _line(("classifier", "AUC, PA", "AUC, AP", "Brier before", "Brier after", "Brier of the prevalence")),
    ]
    lines.append(_line(["---"] * 6))
    for name, one in result["classifiers"].items():
        views = [_viewed(one["views"][view]) for view in FRONTAL_VIEWS]
        scores = [_span(one["calibration"]["brier"][key]) for key in ("before", "after", "prevalence")]
        lines.append(_line((name, *views, *scores)))
    lines += ["", *(f"- {limit}" for limit in result["limits"])]
    return "\n".join(lines) + "\n"


def rows(result: dict, threshold: str = "youden") -> list[tuple[str, ...]]:
    """Cells of the table, a classifier each, in the order CTPA, X-ray, generated, controls."""
    order = list(WHAT)
    found = sorted(result["classifiers"].items(), key=lambda item: order.index(item[1]["input"]))
    made = []
    for name, one in found:
        mark = " †" if any("not X-ray evidence" in note for note in one["notes"]) else ""
        rates = [_span(one["thresholds"][threshold][rate]) for rate in RATES]
        made.append((name + mark, WHAT[one["input"]], _span(one["auc"]), *rates))
    return made


def flat(result: dict) -> pd.DataFrame:
    """One number a row: classifier, threshold, measure, mean, low, high, prevalence."""
    found, prevalence = [], round(result["cases"]["prevalence"]["mean"], 6)
    for name, one in result["classifiers"].items():
        low, high = one["auc"]["bootstrap"]
        entries = [("", "auc", one["auc"]), ("", "auc_bootstrap", one["auc"] | {"low": low, "high": high})]
        entries += [("", f"auc_{view}", area) for view, area in one["views"].items()]
        entries += [("", f"brier_{key}", estimate) for key, estimate in one["calibration"]["brier"].items()]
        entries += [(key, rate, one["thresholds"][key][rate]) for key in one["thresholds"] for rate in RATES]
        for threshold, measure, value in entries:
            value = value or {}
            numbers = {key: value.get(key) for key in ("mean", "low", "high")}
            row = {"classifier": name, "input": one["input"], "threshold": threshold, "measure": measure}
            found.append(row | numbers | {"prevalence": prevalence})
    return pd.DataFrame(found)


def picture(result: dict) -> Figure:
    """The table with Youden's threshold as a figure."""
    cells = rows(result)
    figure = Figure(figsize=(15, 0.8 + 0.62 * (len(cells) + 1)), layout="constrained")
    axis = figure.subplots()
    axis.axis("off")
    wrapped = [[cell.replace(" [", "\n[") for cell in row] for row in cells]
    widths = [0.17, 0.13, *[0.70 / 6] * 6]
    table = axis.table(wrapped, colLabels=HEADERS, cellLoc="center", colWidths=widths, bbox=[0, 0, 1, 1])
    table.auto_set_font_size(False)
    table.set_fontsize(10)
    for (row, _), cell in table.get_celld().items():
        cell.set_edgecolor("#c9ced4")
        cell.set_facecolor("#e8ecf0" if row == 0 else "white")
    title = (
        f"{result['cases']['test']} test cases, prevalence {_span(result['cases']['prevalence'])}; Youden's threshold"
    )
    title = ("PHANTOMS, not patients. " if result["protocol"].get("phantoms") else "") + title
    if any("†" in row[0] for row in cells):
        title += "\n† not X-ray evidence: X-rays are DRRs of contrast CTs"
    axis.set_title(title, fontsize=11)
    return figure


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    with atomic_path(path) as temporary:
        Path(temporary).write_text(text, encoding="utf-8")


def _line(cells) -> str:
    return "| " + " | ".join(cells) + " |"


def _span(value: dict | None) -> str:
    if value is None or value["mean"] is None:
        return "–"
    if value["low"] is None:
        return f"{value['mean']:.3f}"
    return f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def _viewed(area: dict | None) -> str:
    return "–" if area is None else f"{_span(area)}, {area['positives']} of {area['cases']}"


KEPT = ("fold", "part", "id", "patient", "label", "view", "xray_source")


def protocol_of(cfg: DictConfig, protocols: list[dict], scores: pd.DataFrame, generators: Generators | None) -> dict:
    """Protocol of the comparison; plain JSON."""
    first = protocols[0]
    test = scores[scores.part == "test"].sort_values("id")
    words = "\n".join(f"{name} {label}" for name, label in zip(test["id"], test["label"], strict=True))
    return {
        "primary": PRIMARY,
        "phantoms": all("pe_share" in data for data in protocols),
        "dataset": first.get("dataset"),
        "data_version": first.get("version"),
        "folds": [data.get("fold") for data in protocols],
        "cases_sha256": hashlib.sha256(words.encode()).hexdigest(),
        "bootstrap": {"draws": cfg.draws, "seed": cfg.seed, "level": LEVEL, "unit": "patient"},
        "sensitivity": cfg.sensitivity,
        "margin": cfg.margin,
        "generators": None if generators is None else generators.describe(),
        "data": protocols,
        "machine": machine(),
    }


def write_all(
    output: Path, result: dict, scores: pd.DataFrame, names: list[str], runs: dict[str, list[Path]] | None = None
) -> None:
    """Writes everything into a folder, each file whole or not at all; `runs` are training folders by classifier."""
    output.mkdir(parents=True, exist_ok=True)
    write_text(output / "table.md", markdown(result))
    with atomic_path(output / "table.csv") as temporary:
        flat(result).round(6).to_csv(temporary, index=False)
    with atomic_path(output / "scores.csv") as temporary:
        scores[[*KEPT, *names]].round(6).to_csv(temporary, index=False)
    write_metrics(output / "classification.json", result)
    figures = {
        "table": picture(result),
        "roc": roc_picture(scores, result),
        "precision_recall": precision_recall_picture(scores, result),
        "reliability": reliability_picture(result),
        "training": training_picture(runs or {}),
    }
    for name, figure in figures.items():
        if figure is None:
            continue
        with atomic_path(output / f"{name}.png") as temporary:
            figure.savefig(temporary, dpi=150, facecolor="white")
