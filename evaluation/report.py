"""The report: one HTML page made from what an evaluation left in its folder; it opens offline and loads nothing."""

import base64
import io
import json
from pathlib import Path

import pandas as pd
from jinja2 import Environment
from matplotlib.figure import Figure

from evaluation.charts import case_scores, loss_curves
from evaluation.metrics.registry import catalogue
from evaluation.pictures import SYNTHETIC
from evaluation.results import LABELS, METRIC_LABELS, MODEL, best_of, sentence
from evaluation.scoring import TRUTH

TEMPLATE = Path(__file__).with_name("report.html.jinja")
MIME = {".png": "image/png", ".gif": "image/gif"}
MAX_GIFS = 4  # a megabyte each; the others lie beside the page


def write_report(folder: Path, runs: dict[str, str | Path | None] | None = None) -> Path:
    """Writes `report.html` into `folder` from its `metrics.json`, `cases.csv`, `sheet.png` and `gif/`.

    `runs` are training folders by title; the losses in their `metrics.csv` become curves.
    """
    raw = (folder / "metrics.json").read_text(encoding="utf-8")
    result, scores = json.loads(raw), pd.read_csv(folder / "cases.csv", dtype={"id": str, "patient": str})
    protocol = result["protocol"]
    columns = list(result["methods"][MODEL])
    best = {name: best_of(result["methods"], name) for name in columns}
    outside = [name for name, why in protocol["not_measured"].items() if why.startswith("outside window")]
    blank = dict.fromkeys(outside, "outside window")
    table = [_row(name, values, columns, best, blank) for name, values in result["methods"].items()]
    if any(result["reference"][TRUTH].values()):
        table.append(_row(TRUTH, result["reference"][TRUTH], columns, {}, blank))
    curves = [loss_curves(run, title) for title, run in (runs or {}).items() if run]
    spread = scores.loc[scores.method == MODEL, "spread_hu"].mean()
    ids = [str(name) for name in scores.id.unique()]
    reasons = "; ".join(f"{METRIC_LABELS[name]}: {why}" for name, why in protocol["not_measured"].items())
    page = Environment(autoescape=True, trim_blocks=True).from_string(TEMPLATE.read_text(encoding="utf-8"))
    html = page.render(
        title="Chest X-ray to CT: evaluation",
        mark=SYNTHETIC,
        summary=sentence(result),
        phantoms=str(protocol["dataset"]).startswith("phantom"),
        protocol=protocol,
        level=round(100 * protocol["bootstrap"]["level"]),
        columns=columns,
        column_labels=METRIC_LABELS,
        table=table,
        differences=[_row(name, values, columns, {}, blank, "+") for name, values in result["differences"].items()],
        not_measured=reasons or "not measured for that row",
        chart=_figure_uri(case_scores(scores)),
        sheet=_file_uri(folder / "sheet.png"),
        gifs=[
            {"name": gif.stem, "data": _file_uri(gif)}
            for gif in sorted((folder / "gif").glob("*.gif"))
            if gif.stem in ids
        ][:MAX_GIFS],
        curves=[_figure_uri(curve) for curve in curves if curve is not None],
        spread=f"{spread:.0f}" if protocol["samples"] > 1 and spread == spread else None,
        protocol_rows=_protocol_rows(protocol, result.get("distribution")),
        raw=raw,
    )
    path = folder / "report.html"
    path.write_text(html, encoding="utf-8")
    return path


def _row(
    method: str, values: dict, columns: list[str], best: dict[str, str | None], blank: dict[str, str], sign: str = ""
) -> dict:
    cells = []
    for metric in columns:
        estimate, digits = values.get(metric), catalogue()[metric].digits
        if estimate is None:
            cells.append({"mean": blank.get(metric, "n/a")})
            continue
        cell = {"mean": f"{estimate['mean']:{sign}.{digits}f}", "best": best.get(metric) == method}
        if estimate["low"] is not None:
            cell["interval"] = f"{estimate['low']:{sign}.{digits}f} … {estimate['high']:{sign}.{digits}f}"
        if estimate.get("p_holm") is not None:
            cell["p"] = f"= {estimate['p_holm']:.2g}" if estimate["p_holm"] >= 0.001 else "< 0.001"
        cells.append(cell)
    return {"method": method, "label": LABELS.get(method, method), "cells": cells}


def _protocol_rows(protocol: dict, distribution: dict | None) -> list[tuple[str, str]]:
    """Readable lines of the protocol; what is nested stays in the full listing."""
    checkpoint, machine = protocol["checkpoint"] or {}, protocol["machine"]
    rows = {
        "estimator": protocol["estimator"],
        "data": f"{protocol['dataset']}, version {protocol['data_version']}, split {protocol['split']}, "
        f"{protocol['cases']} cases of {protocol['patients']} patients",
        "volume": f"{_numbers(protocol['volume_size'])} voxels of {_numbers(protocol['spacing'])} mm (D, H, W)",
        "window, data range": "{:g} to {:g} HU, ".format(*protocol["window"]) + f"{protocol['data_range_hu']:g} HU",
        "sampler": f"{protocol.get('sampler')}, {protocol.get('steps')} steps, guidance "
        f"{protocol.get('guidance_scale')}, seed {protocol['seed']}",
        **{f"population, {name}": _population(values) for name, values in (distribution or {}).items()},
        "checkpoint": f"{checkpoint['file']}, sha256 {checkpoint['sha256'][:16]}…" if checkpoint else "none",
        **{f"definition: {name}": text for name, text in protocol["definitions"].items()},
        "time, s": ", ".join(f"{stage} {seconds:g}" for stage, seconds in protocol["timings_s"].items()),
        "machine": f"{machine['cpus']} CPU cores, torch {machine['torch']}",
    }
    return list(rows.items())


def _population(values: dict) -> str:
    """Fréchet distances and MMD of one method in a line, with what the number of cases alone does to them."""
    parts = [
        f"{part}: Fréchet {values['frechet'][part]} (halves of the truth {values['reference'][part]}), "
        f"MMD {values['mmd'][part]}"
        for part in values["frechet"]
    ]
    return "; ".join([*parts, values["warning"] or f"{values['cases']} cases"])


def _numbers(values) -> str:
    return "unknown" if values is None else " × ".join(f"{float(v):g}" for v in values)


def _file_uri(path: Path) -> str | None:
    if not path.is_file():
        return None
    return f"data:{MIME[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _figure_uri(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
