"""The table of classifiers, one row each, in Markdown, CSV and as a picture."""

import hashlib
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from omegaconf import DictConfig

from common.environment import machine
from common.files import atomic_path, write_json
from dataset.imaging.geometry import FRONTAL_VIEWS
from evaluation.classifiers.comparison import COLUMNS
from evaluation.classifiers.generated_cases import Generators
from evaluation.classifiers.hypotheses import PRIMARY
from evaluation.classifiers.plots import precision_recall_picture, reliability_picture, roc_picture, training_picture
from evaluation.statistics.patient_bootstrap import LEVEL, METHOD
from evaluation.visualization.text import estimate_text, markdown_table

INPUT_LABELS = {  # in the order of the table
    "ct": "CTPA",
    "xray": "X-ray",
    "generated": "generated CTPA",
    "ct on generated": "generated CTPA",
    "metadata": "no picture",
}
RESULTS = ("classification.json", "scores.csv", "table.*", "roc.png", "precision_recall.png", "reliability.png")
RESULTS += ("training.png",)  # files of `write_all`
HEADERS = ("classifier", "input", "AUC", "accuracy", "specificity", "sensitivity", "PPV", "NPV")
RATES = ("accuracy", "specificity", "sensitivity", "ppv", "npv")


def markdown(result: dict) -> str:
    """The tables of both thresholds, the comparisons in sentences, and the limits."""
    counts = result["cases"]
    mark = " **Phantoms, not patients.**" if result["protocol"].get("phantoms") else ""
    folds = f" in {counts['folds']} folds" if counts["folds"] > 1 else ""
    share = estimate_text(counts["prevalence"], 3)
    proportions = "Wilson's" if counts["test"] == counts["patients"] else METHOD
    lines = [
        f"{counts['test']} test cases of {counts['patients']} patients{folds}, prevalence {share}.{mark}",
        f"Intervals are 95 %: of AUC DeLong's (table.csv has the bootstrap's beside), of proportions {proportions}, "
        f"of Brier scores {METHOD}.",
        "",
    ]
    titles = {
        "youden": "At Youden's threshold of the validation cases",
        "sensitive": f"At the threshold with a sensitivity of {result['sensitivity']:g} on the validation cases",
    }
    for key, title in titles.items():
        lines += [f"{title}:", "", *markdown_table(HEADERS, rows(result, key)), ""]
    lines += [f"- {result['primary']['stated']}.", f"- {result['primary']['sentence']}"]
    lines += [f"- {row['sentence']}" for row in (result["non_inferiority"], *result["comparisons"])]
    lines += [f"- {name}: {note}." for name, one in result["classifiers"].items() for note in one["notes"]]
    found = []
    for name, one in result["classifiers"].items():
        views = [one["views"][view] for view in FRONTAL_VIEWS]
        views = ["–" if v is None else f"{estimate_text(v, 3)}, {v['positives']} of {v['cases']}" for v in views]
        scores = [estimate_text(one["calibration"]["brier"][key], 3) for key in ("before", "after", "prevalence")]
        found.append((name, *views, *scores))
    head = ("classifier", "AUC, PA", "AUC, AP", "Brier before", "Brier after", "Brier of the prevalence")
    lines += ["", *markdown_table(head, found), "", *(f"- {limit}" for limit in result["limits"])]
    return "\n".join(lines) + "\n"


def rows(result: dict, threshold: str = "youden") -> list[tuple[str, ...]]:
    """Cells of the table, a classifier each, in the order CTPA, X-ray, generated, controls."""
    order, made = list(INPUT_LABELS), []
    for name, one in sorted(result["classifiers"].items(), key=lambda item: order.index(item[1]["input"])):
        mark = " †" if any("not X-ray evidence" in note for note in one["notes"]) else ""
        numbers = [one["auc"], *(one["thresholds"][threshold][rate] for rate in RATES)]
        made.append((name + mark, INPUT_LABELS[one["input"]], *(estimate_text(number, 3) for number in numbers)))
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
            numbers = {key: (value or {}).get(key) for key in ("mean", "low", "high")}
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
    mark, counts = "PHANTOMS, not patients. " if result["protocol"].get("phantoms") else "", result["cases"]
    title = (
        f"{mark}{counts['test']} test cases, prevalence {estimate_text(counts['prevalence'], 3)}; Youden's threshold"
    )
    if any("†" in row[0] for row in cells):
        title += "\n† not X-ray evidence: X-rays are DRRs of contrast CTs"
    axis.set_title(title, fontsize=11)
    return figure


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
    """Writes everything into a folder, each file atomically; `runs` are training folders by classifier."""
    output.mkdir(parents=True, exist_ok=True)
    with atomic_path(output / "table.md") as temporary:
        temporary.write_text(markdown(result), encoding="utf-8")
    for name, table in (("table", flat(result)), ("scores", scores[[*COLUMNS, *names]])):
        with atomic_path(output / f"{name}.csv") as temporary:
            table.round(6).to_csv(temporary, index=False)
    write_json(output / "classification.json", result)
    figures = {
        "table": picture(result),
        "roc": roc_picture(scores, result),
        "precision_recall": precision_recall_picture(scores, result),
        "reliability": reliability_picture(result),
        "training": training_picture(runs or {}),
    }
    for name, figure in figures.items():
        if figure is not None:
            with atomic_path(output / f"{name}.png") as temporary:
                figure.savefig(temporary, dpi=150, facecolor="white")
