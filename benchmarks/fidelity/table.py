"""Merges judged methods into `cases/`, `results.json` and `results.md`: by size, method and training seed.

The scores of every case stay in the repository, so that intervals and paired differences can be made again, and runs
may be spread over days and machines.
"""

import json
import platform
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from benchmarks.fidelity.methods import Method
from evaluation.metrics.registry import catalogue
from evaluation.statistics import bootstrap_mean, paired_difference

HERE = Path(__file__).resolve().parent
BASELINES = ("mean_volume", "nearest", "ridge")  # need no training seed
PAIRS = (  # what is compared with what, like with like
    ("model", "regression"),
    ("model", "ridge"),
    ("model", "nearest"),
    ("model", "mean_volume"),
    ("model", "shuffled_xray"),
    ("model_sample", "ancestor"),
    ("model_sample", "regression"),
)


def machine() -> str:
    """The processor that trained, in words."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{torch.get_num_threads()} cores, {names[0].split(':')[1].strip() if names else platform.processor()}"


def collect(name: str, method: Method, size: int, seed: int, trained: dict, judged: Path, home: Path = HERE) -> None:
    """Takes a judged method in, then writes results and table anew, all under `home`."""
    scores = pd.read_csv(judged / "cases.csv", dtype={"id": str, "patient": str})
    protocol = json.loads((judged / "metrics.json").read_text())["protocol"]
    for theirs, ours in method.judged.items():
        rows = scores[scores.method == theirs].assign(method=ours)
        key = ours if ours in BASELINES else f"{ours}_{seed}"
        stem = home / "cases" / str(size) / key
        stem.parent.mkdir(parents=True, exist_ok=True)
        rows.to_csv(stem.with_suffix(".csv"), index=False, float_format="%.5g")
        learned = {} if ours in BASELINES else {"minutes": trained["minutes"], "batches": trained["batches"]}
        facts = {"method": ours, "seed": None if ours in BASELINES else seed, "machine": machine(), **learned}
        stem.with_suffix(".json").write_text(json.dumps(facts | {"protocol": protocol}, indent=1) + "\n")
    write(size, home)


def read(size: int, home: Path = HERE) -> dict[str, list[tuple[dict, pd.DataFrame]]]:
    """`{method: [(facts, scores by case id)]}`, one entry a training seed."""
    found: dict = {}
    for path in sorted((home / "cases" / str(size)).glob("*.csv")):
        facts = json.loads(path.with_suffix(".json").read_text())
        table = pd.read_csv(path, dtype={"id": str, "patient": str}).set_index("id")
        found.setdefault(facts["method"], []).append((facts, table))
    return found


def summarise(size: int, home: Path = HERE) -> dict:
    """Means over cases and training seeds with patient-bootstrap intervals, spread over seeds, paired differences."""
    found = read(size, home)
    result: dict = {"size": size, "methods": {}, "differences": {}}
    for name, runs in found.items():
        columns = [c for c in runs[0][1].columns if c in catalogue()]
        table = sum(run[columns] for _, run in runs) / len(runs)
        patients = runs[0][1].patient.to_numpy(dtype=str)
        entry = {c: bootstrap_mean(table[c].to_numpy(), patients).as_dict() for c in columns if table[c].notna().any()}
        each = [float(run.psnr.mean()) for _, run in runs]
        facts = runs[0][0]
        result["methods"][name] = {
            "metrics": entry,
            "seeds": [facts["seed"] for facts, _ in runs],
            "psnr_by_seed": [round(value, 3) for value in each],
            "cases": len(table),
            "batches": [facts.get("batches") for facts, _ in runs],
            "minutes": facts.get("minutes"),
            "machine": facts["machine"],
            "estimator": facts["protocol"]["estimator"] if name == "model" else None,
            "parameters": facts["protocol"].get("parameters"),
            "protocol": facts["protocol"],
        }
    for one, other in PAIRS:
        if one in found and other in found:
            result["differences"][f"{one} - {other}"] = _differences(found[one], found[other])
    return result


def _differences(ones: list, others: list) -> dict:
    """Paired by case, averaged over the seeds that both have; the spread is over the seeds' own differences."""
    index = ones[0][1].index.intersection(others[0][1].index)
    columns = [c for c in ones[0][1].columns if c in catalogue() and c in others[0][1].columns]
    mean = [sum(run.loc[index, columns] for _, run in runs) / len(runs) for runs in (ones, others)]
    patients = ones[0][1].loc[index, "patient"].to_numpy(dtype=str)
    entry = {
        c: paired_difference(mean[0][c].to_numpy(), mean[1][c].to_numpy(), patients).as_dict()
        for c in columns
        if (mean[0][c] - mean[1][c]).notna().any()
    }
    if len(ones) > 1 and len(others) in (1, len(ones)):
        partners = others * len(ones) if len(others) == 1 else others
        each = [
            float((a.loc[index, "psnr"] - b.loc[index, "psnr"]).mean())
            for (_, a), (_, b) in zip(ones, partners, strict=True)
        ]
        entry["psnr"]["by_seed"] = [round(value, 3) for value in each]
        entry["psnr"]["seed_std"] = round(float(np.std(each, ddof=1)), 3)
    return entry


def write(size: int, home: Path = HERE) -> None:
    """`results.json`, one entry a size, and `results.md`."""
    path = home / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    results[str(size)] = summarise(size, home)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (home / "results.md").write_text("\n".join(_markdown(entry) for entry in results.values()), encoding="utf-8")


def _markdown(entry: dict) -> str:
    names = list(dict.fromkeys(c for m in entry["methods"].values() for c in m["metrics"]))
    heads = ["method", "machine, minutes, batches", *(catalogue()[n].label for n in names)]
    lines = [f"## {entry['size']}³", "", "| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    ranked = sorted(entry["methods"].items(), key=lambda item: -item[1]["metrics"]["psnr"]["mean"])
    for name, method in ranked:
        batches = ", ".join(str(b) for b in method["batches"] if b)
        budget = f"{method['machine']}, {method['minutes']:g} min, {batches}" if batches else "–"
        cells = [_span(method["metrics"].get(n)) for n in names]
        lines.append("| " + " | ".join([f"{name} ({method['cases']})", budget, *cells]) + " |")
    lines += ["", "| difference | PSNR, dB | over training seeds |", "|---|---|---|"]
    for name, metrics in entry["differences"].items():
        seeds = metrics["psnr"].get("by_seed", "one seed")
        lines.append(f"| {name} | {_span(metrics['psnr'])} | {seeds} |")
    return "\n".join(lines) + "\n"


def _span(estimate: dict | None) -> str:
    if estimate is None or estimate["mean"] is None:
        return "–"
    mean = f"{estimate['mean']:.3g}"
    return mean if estimate["low"] is None else f"{mean} [{estimate['low']:.3g}, {estimate['high']:.3g}]"


if __name__ == "__main__":
    for folder in sorted((HERE / "cases").iterdir()):
        write(int(folder.name))
    print((HERE / "results.md").read_text())
