"""Where a comparison of classifiers goes: table.md, table.csv, classification.json, scores.csv and pictures."""

import hashlib
from pathlib import Path

import pandas as pd
from omegaconf import DictConfig

from dataset.files import atomic_path
from evaluation.diagnostic import PRIMARY
from evaluation.diagnostic_charts import precision_recall_picture, reliability_picture, roc_picture, training_picture
from evaluation.diagnostic_tables import flat, markdown, picture, write_text
from evaluation.generated import Generators
from evaluation.results import write_metrics
from evaluation.roc import LEVEL
from evaluation.stated import machine

KEPT = ("fold", "part", "id", "patient", "label", "view", "xray_source")


def stated(cfg: DictConfig, protocols: list[dict], scores: pd.DataFrame, generators: Generators | None) -> dict:
    """Under what the numbers hold; plain JSON."""
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
