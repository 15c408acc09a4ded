"""The content of `metrics.json`: means with patient-bootstrap intervals, paired differences, and a sentence."""

from pathlib import Path

import numpy as np
import pandas as pd

from common.files import write_json
from evaluation.metrics.catalogue import catalogue
from evaluation.scoring.pooled import averaged_names, pooled_estimate
from evaluation.scoring.score_cases import TRUTH
from evaluation.statistics.patient_bootstrap import DRAWS, Estimate, paired_difference, without_few
from evaluation.statistics.significance import ALPHA, holm, sign_flip_p
from evaluation.visualization.text import estimate_text

MODEL = "model"
LABELS = {
    "model": "model, mean of samples",
    "model_sample": "model, one sample",
    "mean_volume": "training mean volume",
    "nearest": "nearest training case",
    "ridge": "ridge regression",
    "shuffled_xray": "model, shuffled X-rays",
    TRUTH: "the true volume itself",
}
METRIC_LABELS = {name: metric.label for name, metric in catalogue().items()}
COMPARED = ("mean_volume", "nearest", "ridge", "shuffled_xray")


def summarise(scores: pd.DataFrame, seed: int = 0, draws: int = DRAWS) -> dict[str, dict]:
    """`{"methods": {method: {metric: {"mean", "low", "high", "cases", "patients"}}}, "reference", "differences"}`.

    `cases` and `patients` are those with a value; in place of a metric without any stands None. `differences` are
    model minus the other method on the same cases, for metrics that are a mean over cases; `p_holm` is a sign-flip p
    value over patients, Holm-adjusted over the methods.
    """
    names = [name for name in scores.method.unique() if name != TRUTH]
    metrics = measured_names(scores)

    def estimates(method: str, columns: list[str]) -> dict:
        rows = scores[scores.method == method]
        patients = rows.patient.to_numpy(dtype=str)
        found = {name: pooled_estimate(rows, name, patients, draws, seed) for name in columns}
        return {name: _counted(value, rows[name].to_numpy(), patients) for name, value in found.items()}

    return {
        "methods": {name: estimates(name, metrics) for name in names},
        "reference": {TRUTH: estimates(TRUTH, [name for name in metrics if catalogue()[name].floor])},
        "differences": _differences(scores, [n for n in COMPARED if n in names and MODEL in names], seed, draws),
    }


def measured_names(scores: pd.DataFrame) -> list[str]:
    """The columns of `scores` that are metrics."""
    return [name for name in scores.columns if name in catalogue()]


def sentence(result: dict) -> str:
    """The result in PSNR as a sentence.

    A difference is shown if its interval and its adjusted p value exclude zero. The sentence names too few patients
    for any such difference.
    """
    result = without_few(result, result["protocol"]["patients"])
    protocol, method = result["protocol"], evaluated_method(result)
    psnr = result["methods"][method].get("psnr")
    cases = f"{protocol['cases']} {protocol['split']} case{'s' * (protocol['cases'] != 1)}"
    who = f"On {cases} the {'model' if method == MODEL else f'method {method}'}"
    reached = "has no PSNR" if psnr is None else f"reaches {estimate_text(psnr, 2)} dB PSNR"
    seen, unlike = (protocol.get("seen_patients") or {}).get("train", 0), protocol.get("xrays_unlike_training") or 0
    mark = f"NO EVIDENCE, {seen} of its patients were trained on: " if seen else ""
    strange = f", {unlike} of the X-rays are unlike those of the training" if unlike else ""
    claims = [f"{mark}{who} ({protocol['estimator']}) {reached}{strange}"]
    compared = {name: metrics["psnr"] for name, metrics in result["differences"].items() if metrics.get("psnr")}
    sizes = {name: f"{estimate_text(difference, 2, '+')} dB" for name, difference in compared.items()}
    patients = protocol["patients"]
    if compared and smallest_p(patients, len(compared)) > ALPHA:
        few = f"no difference can be shown, {patients} patient{'s are' if patients > 1 else ' is'} too few"
        found = ", ".join(f"{size} against the {LABELS[name]}" for name, size in sizes.items())
        return f"{claims[0]}; {few} (found: {found})."
    for name, difference in compared.items():
        shown, size = is_shown(difference, difference["p_holm"]), sizes[name]
        if not shown and difference["p_holm"] is not None:
            size += f", adjusted p {difference['p_holm']:.2g}"
        if name == "shuffled_xray":
            own = "with the patient's own X-ray instead of another patient's it"
            claims.append(f"{own} gains {size}" if shown else f"{own} shows no difference ({size})")
        elif not shown:
            claims.append(f"against the {LABELS[name]} no difference is shown ({size})")
        elif difference["mean"] > 0:
            claims.append(f"it beats the {LABELS[name]} by {estimate_text(difference, 2)} dB")
        else:
            claims.append(f"it falls behind the {LABELS[name]} ({size})")
    return "; ".join(claims) + "."


def write_result(folder: Path, protocol: dict, scores: pd.DataFrame, seed: int, **parts) -> dict:
    """Writes `cases.csv` and `metrics.json` of `scores` with its summary and `parts`; returns the latter's content."""
    protocol = protocol | {"not_measured": scores.attrs["not_measured"]}
    result = {"protocol": protocol, **summarise(scores, seed), **parts}
    folder.mkdir(parents=True, exist_ok=True)
    scores.round(6).to_csv(folder / "cases.csv", index=False)
    write_json(folder / "metrics.json", result)
    return result


def evaluated_method(result: dict) -> str:
    """The evaluated method of a result: `model`, or the method of scored files."""
    return MODEL if MODEL in result["methods"] else next(iter(result["methods"]))


def smallest_p(patients: int, comparisons: int) -> float:
    """The smallest possible Holm-adjusted two-sided sign-flip p value: `comparisons` times 2 of 2^n sign patterns."""
    return min(1.0, comparisons * 2.0 ** (1 - patients))


def is_shown(difference: dict, p: float | None) -> bool:
    """Whether the interval and the adjusted p value both exclude zero."""
    if difference["low"] is None or p is None:
        return False
    return p <= ALPHA and not difference["low"] <= 0 <= difference["high"]


def _differences(scores: pd.DataFrame, others: list[str], seed: int, draws: int) -> dict:
    model = scores[scores.method == MODEL].set_index("id")
    patients = model.patient.to_numpy(dtype=str)
    result = {name: {} for name in others}
    for metric in averaged_names(measured_names(scores)):
        p_values, own = {}, model[metric].to_numpy()
        for name in others:
            other = scores[scores.method == name].set_index("id")[metric].reindex(model.index).to_numpy()
            estimate = paired_difference(own, other, patients, draws, seed)
            result[name][metric] = _counted(estimate, np.subtract(own, other), patients)
            p_values[name] = sign_flip_p(np.subtract(own, other), patients, seed=seed)
        for name, p in holm(p_values).items():
            if result[name][metric] is not None:
                result[name][metric]["p_holm"] = p
    return result


def _counted(estimate: Estimate, values: np.ndarray, patients: np.ndarray) -> dict | None:
    """An estimate with the numbers of cases and patients that have a value; None without any."""
    known = np.isfinite(values)
    counts = {"cases": int(known.sum()), "patients": len(set(patients[known]))}
    return None if estimate.mean is None else estimate.as_dict() | counts


def best_of(methods: dict, metric: str) -> str | None:
    """The method with the best mean of a metric, without the shuffled control; None for a metric without a best."""
    means = {name: values[metric]["mean"] for name, values in methods.items() if values.get(metric) is not None}
    means.pop("shuffled_xray", None)
    if catalogue()[metric].best == "none":
        return None
    return min(means, key=lambda name: badness(metric, means[name]), default=None)


def badness(metric: str, value):
    """A value of a metric, or an array of them, turned so that lower is better."""
    best = catalogue()[metric].best
    return abs(value - 1.0) if best == "one" else -value if best == "high" else value
