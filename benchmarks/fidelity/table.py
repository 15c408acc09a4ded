"""Merges evaluated methods into one table of cases, `results.json` and `results.md`, by method and training seed.

The repository keeps the scores of every case, so that intervals and paired differences can be recomputed and runs can
be spread over days and machines. `results.json` has the form of an evaluation's `metrics.json`, with the hypotheses of
the benchmark added. `python -m benchmarks.fidelity.table` writes both files from the stored scores.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.fidelity import hypotheses
from benchmarks.fidelity.paired import Runs, averaged, difference
from benchmarks.fidelity.variants import BASELINES, RECIPES, Method, unknown_name
from benchmarks.markdown import span, table_lines
from dataset.imaging.forward_model import ForwardModel
from evaluation.metrics.catalogue import catalogue
from evaluation.scoring.pooled import averaged_names, pooled_estimate
from evaluation.scoring.score_cases import FIDELITY, TRUTH
from evaluation.statistics.significance import holm

HERE = Path(__file__).resolve().parent
SEEDLESS = (*BASELINES, *(unknown_name(name) for name in BASELINES), TRUTH)
POINTS = (*BASELINES, "regression", "unknown_pose_regression")  # deterministic: one volume, no samples
PAIRS = (  # compared rows; both have the same training budget and noise recipe where possible
    *(("model", name) for name in ("regression", "ridge", "nearest", "mean_volume", "shuffled_xray")),
    *(("model_sample", name) for name in ("xray2ctpa", "xray2ctpa_1000")),
    ("xray2ctpa", "xray2ctpa_1000"),
    ("model_sample", "regression"),
    *(("model", name) for name in RECIPES),
    *(("whole_8min", name) for name in ("no_prior", "no_lifting", "no_embedding", "with_tokens", "constant_rays")),
    *(
        ("whole_8min", name)
        for name in ("no_pure_noise_warmup", "condition_drop", "factorised", "low_noise_timesteps")
    ),
    ("unknown_pose", "unknown_pose_no_lifting"),
    ("unknown_pose_prior", "unknown_pose_no_prior"),
    ("unknown_pose_no_prior", "unknown_pose_no_prior_no_lifting"),
    *(("unknown_pose_prior", f"unknown_pose_prior_{name}") for name in ("no_lifting", "no_regressor")),
    ("unknown_pose", "unknown_pose_regression"),
    *(("unknown_pose", unknown_name(name)) for name in (*BASELINES, "shuffled_xray")),
    ("whole_8min_on_unknown_pose", "no_lifting_on_unknown_pose"),
    ("model", "model_on_unknown_pose"),
)


def results_name(size: int, ending: str) -> str:
    """The file of a size: `results.json` is that of 64³."""
    return f"results.{ending}" if size == 64 else f"results_{size}.{ending}"


def collect(
    name: str, method: Method, size: int, seed: int, trained: dict, evaluated: Path, home: Path = HERE
) -> None:
    """Adds an evaluated method to the stored tables, then rewrites the results, all under `home`."""
    scores = pd.read_csv(evaluated / "cases.csv", dtype={"id": str, "patient": str})
    protocol = json.loads((evaluated / "metrics.json").read_text())["protocol"]
    if "checkpoint" in protocol:  # its hash identifies it, its path would name a machine
        protocol["checkpoint"]["file"] = Path(protocol["checkpoint"]["file"]).name
    taken = method.evaluated | ({TRUTH: TRUTH} if name == "model" else {})
    rows = load(size, home)
    for theirs, ours in taken.items():
        found = scores[scores.method == theirs].assign(method=ours)
        if found.empty:
            continue
        facts = {"method": ours, "row": theirs, "seed": None if ours in SEEDLESS else seed}
        facts["machine"] = trained.get("machine", "a machine not recorded")
        if ours not in SEEDLESS:
            facts |= {key: trained.get(key) for key in ("minutes", "batches", "recipe")}
        key = ours if ours in SEEDLESS else f"{ours}_{seed}"
        rows[key] = ({**facts, "protocol": protocol}, found)
    save(rows, size, home)
    write(size, home)


def save(rows: dict[str, tuple[dict, pd.DataFrame]], size: int, home: Path) -> None:
    """Writes `cases_<size>.csv.gz`, a line per row of the benchmark and case, and `rows_<size>.jsonl`, its facts."""
    table = pd.concat([table.assign(key=key) for key, (_, table) in sorted(rows.items())])
    packed = {"method": "gzip", "mtime": 0}
    table.to_csv(home / f"cases_{size}.csv.gz", index=False, float_format="%.5g", compression=packed)
    lines = [json.dumps({"key": key, **facts}) for key, (facts, _) in sorted(rows.items())]
    (home / f"rows_{size}.jsonl").write_text("\n".join(lines) + "\n")


def load(size: int, home: Path) -> dict[str, tuple[dict, pd.DataFrame]]:
    """`{key: (facts, scores by case)}` of a size; empty where nothing was evaluated."""
    file = home / f"rows_{size}.jsonl"
    if not file.is_file():
        return {}
    facts = [json.loads(line) for line in file.read_text().splitlines()]
    cases = pd.read_csv(home / f"cases_{size}.csv.gz", dtype={"id": str, "patient": str})
    tables = {key: table.drop(columns="key") for key, table in cases.groupby("key")}
    return {row.pop("key"): (row, tables[key]) for row in facts if (key := row["key"])}


def read(size: int, home: Path = HERE) -> Runs:
    """All rows of a size: by method, one `(facts, scores by case id)` a training seed.

    Without re-projection errors of volumes that cannot be compared with their X-rays (`ForwardModel`).
    """
    found: Runs = {}
    for _, (facts, table) in sorted(load(size, home).items()):
        model = ForwardModel.of_protocol(facts["protocol"].get("data") or {})
        if model is not None and model.why_not_applicable:
            table = table.drop(columns="reprojection", errors="ignore")
        found.setdefault(facts["method"], []).append((facts, table.set_index("id")))
    return found


def cost(facts: dict) -> dict:
    """Per volume: network `evaluations`, `seconds`, `samples`; and the `parameters` of all networks."""
    protocol, name = facts["protocol"], facts["method"]
    if name in SEEDLESS:
        return {"evaluations": 0, "seconds": None, "parameters": None, "samples": None}
    each = protocol.get("evaluations", protocol["steps"] * (1 if protocol.get("guidance_scale", 1.0) == 1.0 else 2))
    single = facts.get("row", "").endswith("sample") or name.endswith("_sample")
    samples = 1 if single else protocol["samples"]
    spent = (protocol.get("timings_s") or {}).get("generation")
    seconds = None if spent is None else spent / (protocol["cases"] * protocol["samples"]) * samples
    return {
        "evaluations": each * samples,
        "seconds": None if seconds is None else round(seconds, 3),
        "parameters": sum((protocol.get("parameters") or {}).values()) or None,
        "samples": samples,
    }


def summarise(size: int, home: Path = HERE) -> dict:
    """`{"protocol", "methods", "reference", "differences", "hypotheses"}`.

    Means over cases and training seeds with bootstrap intervals over patients; `protocol.rows` holds, by method, the
    cost of training and sampling and the PSNR by seed. Differences are paired by case; `p_holm` is adjusted over all
    pairs of the metric.
    """
    found = read(size, home)
    result: dict = {"protocol": _protocol(size, found), "methods": {}, "reference": {}, "differences": {}}
    for name, runs in found.items():
        table = averaged(runs)
        patients = table.pop("patient").to_numpy(dtype=str)
        metrics = {column: pooled_estimate(table, column, patients) for column in table}
        result["reference" if name == TRUTH else "methods"][name] = {
            column: None if estimate.mean is None else estimate.as_dict() for column, estimate in metrics.items()
        }
    result["differences"] = differences(found)
    result["hypotheses"] = hypotheses.evaluate(found, home, size)
    return result


def _protocol(size: int, found: Runs) -> dict:
    rows = {}
    for name, runs in found.items():
        facts = runs[0][0]
        price = cost(facts)
        estimator = "one sample" if price["samples"] == 1 else f"mean of {price['samples']} samples"
        rows[name] = {
            "estimator": "point" if name in (*POINTS, *SEEDLESS) else estimator,
            "seeds": [facts["seed"] for facts, _ in runs],
            "psnr_by_seed": [None if np.isnan(v) else round(v, 3) for v in (float(t.psnr.mean()) for _, t in runs)],
            "cases": len(averaged(runs)),
            "batches": [facts.get("batches") for facts, _ in runs],
            "minutes": facts.get("minutes"),
            "machine": facts["machine"],
            "machines": [facts["machine"] for facts, _ in runs],
            "sampler": None if price["samples"] is None else [facts["protocol"].get(k) for k in ("sampler", "steps")],
            **price,
        }
    shared = {}
    if "model" in found:
        kept = ("window", "data_range_hu", "volume_size", "spacing", "split", "cases", "dataset", "data_version",
                "data_sha256", "bootstrap", "definitions")  # fmt: skip
        shared = {key: found["model"][0][0]["protocol"].get(key) for key in kept}
    return {"size": size, **shared, "rows": rows}


def differences(found: Runs) -> dict[str, dict]:
    """`{"one - other": {metric: {"mean", "low", "high", "p_holm", "by_seed", "seed_std"}}}` of `PAIRS`."""
    pairs = {f"{one} - {other}": (one, other) for one, other in PAIRS if one in found and other in found}
    result: dict = {key: {} for key in pairs}
    for metric in averaged_names(FIDELITY):
        p_values = {}
        for key, (one, other) in pairs.items():
            measured = difference(found[one], found[other], metric)
            if measured is not None:
                p_values[key] = measured.pop("p")
                result[key][metric] = measured
        for key, p in holm(p_values).items():
            result[key][metric]["p_holm"] = p
    return result


def write(size: int, home: Path = HERE) -> None:
    """`results.json` and `results.md` of a size."""
    result = summarise(size, home)
    text = json.dumps(result, indent=1, allow_nan=False) + "\n"
    (home / results_name(size, "json")).write_text(text, encoding="utf-8")
    (home / results_name(size, "md")).write_text(markdown(result), encoding="utf-8")


def markdown(result: dict) -> str:
    """Hypotheses in sentences, the table, the differences."""
    rows = result["protocol"]["rows"]
    present = [n for n in FIDELITY if any(m.get(n) for m in result["methods"].values())]
    heads = ["method (cases)", "estimator", *(catalogue()[n].label for n in present)]
    heads += ["evaluations", "s per volume", "training", "M parameters"]
    reference = {name: metrics for name, metrics in result["reference"].items() if any(metrics.values())}
    ranked = sorted(result["methods"].items(), key=lambda item: -(item[1].get("psnr") or {"mean": -1e9})["mean"])
    cells = []
    for name, metrics in (*ranked, *reference.items()):
        row = rows[name]
        batches = ", ".join(str(b) for b in row["batches"] if b)
        trained = f"{row['minutes']:g} min, {batches} batches" if batches else "–"
        costs = [str(row["evaluations"]), _number(row["seconds"]), trained, _number(row["parameters"], 1e-6)]
        cells.append([f"{name} ({row['cases']})", row["estimator"], *(span(metrics.get(n)) for n in present), *costs])
    differences = []
    for name, metrics in result["differences"].items():
        if "psnr" in metrics:
            psnr = metrics["psnr"]
            p = "–" if psnr["p_holm"] is None else f"{psnr['p_holm']:.2g}"
            seeds = f"{psnr.get('by_seed') or _seeds(name, rows)}{_machines(name, rows)}"
            differences.append([name, span(psnr), p, seeds, span(metrics.get("crps"))])
    machines = "; ".join(sorted({row["machine"] for row in rows.values()}))
    lines = [
        f"# Fidelity at {result['protocol']['size']}³",
        "",
        *hypotheses.sentences(result["hypotheses"]),
        "",
        "## Table",
        "",
        *table_lines(heads, cells),
        "",
        f"Trained on {machines}. Intervals: 95 %, 2,000 draws over patients, seed 0. "
        "A difference with two training seeds or more has interval and p over seeds and patients (mixed model); with "
        "one seed the interval is over patients for this one training, without p. "
        "Seconds are from the machine of a row's first seed (`results.json`); compare them on one machine only.",
        "",
        "## Differences",
        "",
        *table_lines(["difference", "PSNR, dB", "p, Holm", "PSNR by training seed", "CRPS, HU"], differences),
    ]
    return "\n".join(lines) + "\n"


def _seeds(pair: str, rows: dict) -> str:
    """Note on the training seeds of a pair."""
    one, other = (set(rows[name]["seeds"]) for name in pair.split(" - "))
    return "one seed" if one & other or None in one | other else "no seed in common"


def _machines(pair: str, rows: dict) -> str:
    """Note where rows were trained on different machines, which differ in the rounding of autoencoder and data."""
    one, other = (dict(zip(rows[name]["seeds"], rows[name]["machines"], strict=True)) for name in pair.split(" - "))
    if None in one or None in other:  # not trained: identical on every machine
        return ""
    seeds = one.keys() & other.keys()
    alike = all(one[s] == other[s] for s in seeds) if seeds else {*one.values()} == {*other.values()}
    return "" if alike else "; different machines"


def _number(value: float | None, scale: float = 1.0) -> str:
    return "–" if value is None else f"{value * scale:.3g}"


if __name__ == "__main__":
    for file in sorted(HERE.glob("rows_*.jsonl")):
        size = int(file.stem.removeprefix("rows_"))
        write(size)
        print((HERE / results_name(size, "md")).read_text())
