"""Tables of the chest benchmark from the scores of all rows: by patient, the gap to unseen patients, the goals.

`python -m benchmarks.chests.table SOURCE [FOLDER]` writes them from `SOURCE/<patient>/rows/*.csv` into FOLDER (SOURCE
itself by default).
"""

import json
import sys
from pathlib import Path

import pandas as pd

from benchmarks.chests.fold import MORPHS, PATIENT
from benchmarks.chests.predict import AT
from benchmarks.chests.variants import MAIN, SHUFFLED, labels
from benchmarks.timing import machine_name
from common.files import atomic_path
from evaluation.scoring.frozen_protocol import FrozenProtocol, read_protocol
from evaluation.scoring.patient_table import by_patient, markdown, medians, write_tables
from evaluation.visualization.text import markdown_table

DEFAULT_PENALTY = 1.0  # of ridge regression where no other patient was scored
ORDER = ("model", "model_sample", "regression", "ridge", "nearest", "mean_volume", "phantom_weights")
GOALS = (  # least difference of the mean of samples in the median patient, dB, over the box and inside the body
    ("ridge", 0.5),
    ("mean_volume", 1.5),
    ("phantom_weights", 4.0),
    (f"model{SHUFFLED}", 2.5),
)
LUNG_DICE = 0.88  # least lung Dice of the model in the median patient


def read_scores(folder: Path) -> pd.DataFrame:
    """The scores of all rows and patients under `folder`."""
    files = sorted(folder.glob("*/rows/*.csv"))
    if not files:
        raise SystemExit(f"{folder}: no scores; run benchmarks/chests/run.py first")
    tables = [pd.read_csv(file, dtype={"id": str, "patient": str}).assign(fold=file.parts[-3]) for file in files]
    return pd.concat(tables, ignore_index=True)


def with_ridge(scores: pd.DataFrame, protocol: FrozenProtocol) -> pd.DataFrame:
    """The scores with one ridge regression for each fold, by the penalty that is best for the other patients.

    The penalty of a fold has the best mean PSNR over the patients of the selection stage besides the fold's own one.
    """
    parts = [scores[~scores.method.str.contains(AT)]]
    drawn = scores[scores.method.str.contains(AT)]
    if drawn.empty:
        return parts[0]
    drawn = drawn.assign(
        **dict(zip(("name", "penalty"), drawn.method.str.split(AT, expand=True).T.values, strict=True))
    )
    for (name, fold), own in drawn.groupby(["name", "fold"]):
        others = drawn[(drawn.name == name) & (drawn.fold != fold) & drawn.fold.isin(protocol.content["selection"])]
        means = others[others.population == PATIENT].groupby("penalty").psnr.mean()
        penalty = f"{DEFAULT_PENALTY:g}" if means.empty else means.idxmax()
        parts.append(own[own.penalty == penalty].assign(method=name).drop(columns="name"))
    return pd.concat(parts, ignore_index=True)


def chosen_penalties(scores: pd.DataFrame) -> dict[str, str]:
    """The penalty of `ridge` by fold, from scores of `with_ridge`."""
    ridge = scores[scores.method == "ridge"]
    return {} if ridge.empty else ridge.groupby("fold").penalty.first().to_dict()


def ordered(scores: pd.DataFrame, protocol: FrozenProtocol) -> pd.DataFrame:
    """Methods of the main rows first, patients in the order of the folds."""
    rank = {name: i for i, name in enumerate(ORDER)}
    place = {name: i for i, name in enumerate(protocol.patients)}
    keys = scores.assign(_m=scores.method.map(lambda m: rank.get(m, len(rank))), _p=scores.fold.map(place))
    return keys.sort_values(["_m", "method", "_p"], kind="stable").drop(columns=["_m", "_p"])


def gaps(scores: pd.DataFrame) -> pd.DataFrame:
    """Median PSNR over folds on the left-out patient and on morphs of the parents, and the difference, by method."""
    means = scores.groupby(["method", "population", "fold"], sort=False).psnr.mean().unstack("population")
    found = means.reindex(columns=[PATIENT, MORPHS]).groupby("method", sort=False).median()
    return found.assign(gap=found[MORPHS] - found[PATIENT])


def goals(middle: pd.DataFrame) -> list[dict]:
    """Each goal with the value found in the median patient, None where it is not measured."""
    found = []
    for other, least in GOALS:
        for metric in ("psnr", "psnr_body"):
            known = {"model", other} <= set(middle.index) and metric in middle.columns
            value = float(middle.loc["model", metric] - middle.loc[other, metric]) if known else None
            found.append({"goal": f"{metric} above {labels()[other]}, dB", "least": least, "found": value})
    known = "model" in middle.index and "lung_dice" in middle.columns
    dice = float(middle.loc["model", "lung_dice"]) if known else None
    return [*found, {"goal": "lung Dice", "least": LUNG_DICE, "found": dice}]


def write(folder: Path, protocol: FrozenProtocol, output: Path, facts: dict) -> dict:
    """Writes `results.{json,csv,md,tex}` and `results_{held_out,selection}` tables into `output`; returns the JSON."""
    scores = ordered(with_ridge(read_scores(folder), protocol), protocol)
    own = scores[scores.population == PATIENT]
    table = by_patient(own, protocol.metrics)
    side = [name for name in table.method.unique() if name not in _main_methods()]
    shown = {"main": table[~table.method.isin(side)], "side": table[table.method.isin(side)]}
    difference, reached = gaps(scores), goals(medians(table))
    caption = f"Protocol {protocol.name}: mean over {len(protocol.poses)} X-rays of each left-out patient."
    write_tables(output, table, labels(), caption, "results")
    for stage in ("selection", "held_out"):
        part = own[own.fold.isin(protocol.content[stage])]
        if len(part):
            write_tables(
                output, by_patient(part, protocol.metrics), labels(), f"{caption} {stage}.", f"results_{stage}"
            )
    result = {
        "protocol": {"name": protocol.name, "version": protocol.content["version"], **facts},
        "patients": json.loads(table.round(4).to_json(orient="records")),
        "gaps": json.loads(difference.reset_index().round(3).to_json(orient="records")),
        "goals": reached,
        "ridge_penalties": chosen_penalties(scores),
    }
    lines = [
        f"# Chest benchmark\n\n{_words(protocol, facts)}\n\n## Left-out patients\n",
        markdown(shown["main"], labels()),
    ]
    lines += ["## Side rows\n", markdown(shown["side"], labels())] if side else []
    lines += [
        "## Unseen patients and morphs of the parents\n",
        _gap_table(difference),
        "\n## Goals\n",
        _goal_table(reached),
    ]
    with atomic_path(output / "results.md") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with atomic_path(output / "results.json") as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def _main_methods() -> set[str]:
    return {*ORDER, *(f"{name}{SHUFFLED}" for name in MAIN)}


def _words(protocol: FrozenProtocol, facts: dict) -> str:
    shown = "; ".join(f"{key} {value}" for key, value in facts.items())
    return (
        f"Leave one patient out: trained without the patient, tested on {len(protocol.poses)} fixed X-rays of it "
        f"({', '.join(protocol.poses)}), HU window [{protocol.window.low:g}, {protocol.window.high:g}]. A row is the "
        f"mean over the X-rays of a patient. Ideas were chosen on {', '.join(protocol.content['selection'])}; "
        f"{', '.join(protocol.content['held_out'])} were scored once. {shown}."
    )


def _gap_table(difference: pd.DataFrame) -> str:
    names = labels()
    rows = [
        [names.get(method, method), *("–" if pd.isna(v) else f"{v:.2f}" for v in values)]
        for method, *values in difference.itertuples()
    ]
    return "\n".join(
        markdown_table(["method", "PSNR, unseen patient, dB", "PSNR, morphs of the parents, dB", "gap, dB"], rows)
    )


def _goal_table(reached: list[dict]) -> str:
    rows = []
    for entry in reached:
        value = entry["found"]
        verdict = "not measured" if value is None else "reached" if value >= entry["least"] else "not reached"
        rows.append([entry["goal"], f"{entry['least']:g}", "–" if value is None else f"{value:.2f}", verdict])
    return "\n".join(markdown_table(["goal, median patient", "at least", "found", ""], rows))


if __name__ == "__main__":
    source = Path(sys.argv[1])
    write(
        source,
        read_protocol("chests"),
        Path(sys.argv[2]) if len(sys.argv) > 2 else source,
        {"machine": machine_name()},
    )
