"""Paired differences of two results with the same protocol."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from common.errors import UserError
from evaluation.metrics.catalogue import catalogue
from evaluation.protocol import comparability as protocol
from evaluation.scoring.pooled import averaged_names
from evaluation.scoring.summary import LABELS, is_shown, measured_names
from evaluation.statistics.patient_bootstrap import DRAWS, LEVEL, METHOD, paired_difference
from evaluation.statistics.significance import holm, sign_flip_p
from evaluation.visualization.text import estimate_text, markdown_table


@dataclass(frozen=True)
class Result:
    """One evaluation: path and content of its `metrics.json`, and its `cases.csv` in long form."""

    path: Path
    summary: dict
    scores: pd.DataFrame


def read_result(key: str, path: str | Path | None) -> Result:
    """Reads `metrics.json`, given by its path or its folder, and the `cases.csv` beside it.

    Raises UserError if a file is missing or of another form, or if a method has two rows of one id.
    """
    if not path:
        raise UserError(f"{key}: missing; give the metrics.json of an evaluation, {key}=<folder>/metrics.json")
    file = Path(path) / "metrics.json" if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise UserError(f"{key}={path}: no such file; give the metrics.json that evaluation/evaluate.py has written")
    try:
        summary = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not JSON ({error}); evaluate again") from error
    if not isinstance(summary, dict) or not {"protocol", "methods"} <= set(summary):
        raise UserError(f"{file}: no protocol and methods in it; give a metrics.json of evaluation/evaluate.py")
    table = file.with_name("cases.csv")
    if not table.is_file():
        raise UserError(f"{table}: missing; paired differences need the cases beside {file.name}, evaluate again")
    try:
        scores = pd.read_csv(table, dtype={"id": str, "patient": str, "method": str})
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise UserError(f"{table}: not a table ({error}); evaluate again") from error
    if missing := {"id", "patient", "method"} - set(scores.columns):
        raise UserError(f"{table}: no column {', '.join(sorted(missing))}; evaluate again")
    repeated = scores[scores.duplicated(["method", "id"])]
    if len(repeated):
        row = repeated.iloc[0]
        raise UserError(f"{table}: {row['method']} has two rows with id {row['id']}; keep one row per case and method")
    return Result(file, summary, scores)


def compare(
    first: Result, second: Result, method: str = "model", method_b: str = "model", seed: int = 0, draws: int = DRAWS
) -> dict:
    """`{"a", "b", "protocol", "differences": {metric: {"a", "b", "mean", "low", "high", "p", "p_holm"}}}`, a minus b.

    Intervals are those of `paired_difference` over patients; p values are from sign flips of patients, Holm-adjusted
    over the metrics. A metric without a value in either result is omitted. Raises UserError if protocols, estimators,
    cases or patients differ, and without the method or a common metric.
    """
    if draws < 100:
        raise UserError(f"draws={draws}: give at least 100 for an interval")
    unequal = protocol.differences(first.summary["protocol"], second.summary["protocol"], method, method_b)
    if unequal:
        raise UserError(f"{first.path} and {second.path} follow two protocols, no comparison: {'; '.join(unequal)}")
    rows_a, rows_b = _rows(first, method), _rows(second, method_b)
    _check_cases(first, second, rows_a, rows_b)
    rows_b = rows_b.loc[rows_a.index]
    patients = rows_a["patient"].to_numpy(dtype=str)
    differences = {}
    for name in (name for name in averaged_names(measured_names(rows_a)) if name in rows_b.columns):
        one, other = rows_a[name].to_numpy(dtype=float), rows_b[name].to_numpy(dtype=float)
        estimate = paired_difference(one, other, patients, draws, seed)
        if estimate.mean is None:
            continue
        both = np.isfinite(one) & np.isfinite(other)
        differences[name] = {
            "a": round(float(one[both].mean()), 6),
            "b": round(float(other[both].mean()), 6),
            **estimate.as_dict(),
            "cases": int(both.sum()),
            "p": sign_flip_p(one - other, patients, seed=seed),
        }
    if not differences:
        raise UserError(f"{first.path} and {second.path}: no metric has values in both; evaluate both with one set")
    for name, p in holm({name: values["p"] for name, values in differences.items()}).items():
        differences[name]["p_holm"] = p
    return {
        "a": _origin(first, method),
        "b": _origin(second, method_b),
        "protocol": {key: first.summary["protocol"].get(key) for key in protocol.SAME}
        | {"patients": len(set(patients))}
        | {"bootstrap": {"draws": draws, "seed": seed, "level": LEVEL, "unit": "patient", "method": METHOD}},
        "differences": differences,
    }


def table(result: dict) -> str:
    """The differences as a Markdown table with a verdict for each metric."""
    lines = [
        f"{key}: {LABELS.get(row['method'], row['method'])} ({row['estimator']}), {row['file']}"
        for key, row in (("a", result["a"]), ("b", result["b"]))
    ]
    lines += [f"{result['protocol']['cases']} cases of {result['protocol']['patients']} patients", ""]
    rows = []
    for name, values in result["differences"].items():
        metric = catalogue()[name]
        means = [f"{values[key]:.{metric.digits}f}" for key in ("a", "b")]
        span = estimate_text(values, metric.digits, "+", single=" [no interval: one patient]")
        p = "" if values["p_holm"] is None else f"{values['p_holm']:.2g}"
        rows.append((metric.label, *means, span, p, _verdict(metric.best, values)))
    return "\n".join(
        lines + markdown_table(("metric", "a", "b", f"a minus b [{100 * LEVEL:.0f} %]", "p, Holm", ""), rows)
    )


def _verdict(best: str, values: dict) -> str:
    if values["low"] is None or values["p_holm"] is None:
        return "one patient: no interval"
    if not is_shown(values, values["p_holm"]):
        return "no difference shown"
    if best == "one":
        return f"{'a' if abs(values['a'] - 1.0) < abs(values['b'] - 1.0) else 'b'} closer to 1"
    if best == "none":
        return "a and b differ"
    return "a better" if (values["mean"] > 0) == (best == "high") else "b better"


def _origin(result: Result, method: str) -> dict:
    described = result.summary["protocol"]
    return {
        "file": str(result.path),
        "method": method,
        "estimator": protocol.estimator_of(described, method),
        "checkpoint": described.get("checkpoint"),
    }


def _rows(result: Result, method: str) -> pd.DataFrame:
    rows = result.scores[result.scores.method == method].set_index("id")
    if rows.empty:
        known = ", ".join(result.scores.method.unique())
        raise UserError(f"method={method}: not in {result.path}; it holds {known}")
    return rows


def _check_cases(first: Result, second: Result, rows_a: pd.DataFrame, rows_b: pd.DataFrame) -> None:
    for here, there, missing in (
        (first, second, rows_a.index.difference(rows_b.index)),
        (second, first, rows_b.index.difference(rows_a.index)),
    ):
        if len(missing):
            shown = ", ".join(missing[:3])
            raise UserError(
                f"{there.path}: {len(missing)} cases of {here.path} are missing ({shown}…); evaluate both on one set"
            )
    changed = rows_a.index[rows_a["patient"] != rows_b.loc[rows_a.index, "patient"]]
    if len(changed):
        name = changed[0]
        raise UserError(
            f"case {name}: patient {rows_a.patient[name]} in {first.path}, {rows_b.patient[name]} in {second.path}; "
            "evaluate both on one manifest"
        )
