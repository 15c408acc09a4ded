"""Writes the HTML report of a run folder."""

import json
import platform
from importlib.metadata import version
from pathlib import Path

from jinja2 import Environment

from common.errors import UserError
from common.files import atomic_path, write_json
from evaluation.reporting import sections
from evaluation.reporting.plots import case_scores, evidence_curve, loss_curves
from evaluation.scoring.comparison import read_result
from evaluation.scoring.evaluation_pictures import file_name
from evaluation.scoring.pooled import SPREAD
from evaluation.scoring.score_cases import TRUTH
from evaluation.scoring.summary import METRIC_LABELS, best_of, evaluated_method, sentence
from evaluation.statistics.patient_bootstrap import SHOWN_PATIENTS, without_few
from evaluation.visualization.slices import SYNTHETIC

TEMPLATE = Path(__file__).with_name("report.html.jinja")
SOURCES = "report.json"  # the run folders of the last report, to write it again
MAX_GIFS = 4  # a megabyte each; the others lie beside the page


def write_report(
    folder: Path, runs: dict[str, str | Path | None] | None = None, classification: str | Path | None = None
) -> Path:
    """Writes `report.html` into `folder` from its `metrics.json`, `cases.csv`, `sheet.png`, `evidence.png` and `gif/`.

    Raises UserError if `metrics.json` or `cases.csv` is missing or unreadable.

    Args:
        folder: of an evaluation, or of scored files.
        runs: training folders by title, for loss curves; None takes those of the last report. Omits missing folders.
        classification: folder of `evaluation/classification.py`; None takes that of the last report, or a folder
            `classification` within `folder`.
    """
    found = read_result("run", folder)
    result, scores, folder = found.summary, found.scores, found.path.parent
    raw, result = result, without_few(result, result["protocol"]["patients"])
    runs, classification = _sources(folder, runs, classification)
    protocol, method = result["protocol"], evaluated_method(result)
    not_measured = protocol.get("not_measured", {})
    columns = list(result["methods"][method])
    best = {name: best_of(result["methods"], name) for name in columns}
    blank = {name: "outside window" for name, why in not_measured.items() if why.startswith("outside window")}
    cases = protocol["cases"]
    table = [
        sections.method_row(name, values, columns, best, blank, cases) for name, values in result["methods"].items()
    ]
    truth = result.get("reference", {}).get(TRUTH, {})
    if any(truth.values()):
        table.append(sections.method_row(TRUTH, truth, columns, {}, blank, cases))
    differences = result.get("differences", {})
    reliability = result.get("evidence_reliability")
    spread = (result["methods"][method].get(SPREAD) or {}).get("mean")
    curves = [loss_curves(run, title) for title, run in runs.items()]
    names = {file_name(name) for name in scores.id}
    gifs = [gif for gif in sorted((folder / "gif").glob("*.gif")) if gif.stem in names][:MAX_GIFS]
    own = {"this evaluation": folder, "the classification": classification}
    configs = {title: place / ".hydra" / "config.yaml" for title, place in own.items() if place is not None}
    configs = {title: file.read_text(encoding="utf-8") for title, file in configs.items() if file.is_file()}
    trained = sections.newest_texts(runs, ".hydra/config.yaml").items()
    page = Environment(autoescape=True, trim_blocks=True).from_string(TEMPLATE.read_text(encoding="utf-8"))
    html = page.render(
        title="Chest X-ray to CT: evaluation",
        mark=SYNTHETIC,
        summary=sentence(result),
        phantoms=str(protocol["dataset"]).startswith("phantom"),
        protocol=protocol,
        level=round(100 * protocol["bootstrap"]["level"]),
        intervals=protocol["bootstrap"].get("method", "bootstrap over patients"),  # in files of earlier versions
        shown_patients=SHOWN_PATIENTS,
        columns=columns,
        column_labels=METRIC_LABELS,
        evaluated=method,
        table=table,
        differences=[
            sections.method_row(name, values, columns, {}, blank, cases, "+") for name, values in differences.items()
        ],
        not_measured="; ".join(f"{METRIC_LABELS[name]}: {why}" for name, why in not_measured.items())
        or "not measured for that row",
        chart=sections.figure_uri(case_scores(scores)),
        cases=sections.case_table(scores, method),
        sheet=sections.file_uri(folder / "sheet.png"),
        gifs=[{"name": gif.stem, "data": sections.file_uri(gif)} for gif in gifs],
        classification=sections.classification_part(classification),
        curves=[sections.figure_uri(curve) for curve in curves if curve is not None],
        spread=None if spread is None else f"{spread:.0f}",
        ranks=sections.rank_part(result.get("rank_histogram")),
        input_shift=sections.input_shift_part(result.get("input_shift")),
        evidence=sections.evidence_part(reliability),
        evidence_sheet=sections.file_uri(folder / "evidence.png"),
        evidence_curve=sections.figure_uri(evidence_curve(reliability["bins"]) if reliability else None),
        limits=sections.limits(protocol, len(differences)),
        protocol_rows=_protocol_rows(protocol, result.get("distribution")),
        configs=configs | {f"the {title} training": text for title, text in trained},
        records=sections.newest_texts(runs, "run.json"),
        raw=json.dumps(raw, indent=1),
    )
    path = folder / "report.html"
    with atomic_path(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return path


def _sources(folder: Path, runs, classification) -> tuple[dict[str, str | Path | None], Path | None]:
    """Training runs and classification folder: as given, else those of the last report; writes `report.json`."""
    path, kept = folder / SOURCES, {}
    if path.is_file():
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: not JSON ({error}); delete it and name vqgan_run and ddpm_run again") from error
    given = {title: str(run) for title, run in (runs or {}).items() if run}
    runs = {**kept.get("runs", {}), **given}
    classification = classification or kept.get("classification")
    if classification is None and (folder / "classification").is_dir():
        classification = folder / "classification"
    if runs or classification:
        write_json(path, {"runs": runs, "classification": None if classification is None else str(classification)})
    return runs, None if classification is None else Path(classification)


def _protocol_rows(protocol: dict, distribution: dict | None) -> list[tuple[str, str]]:
    """Lines of the protocol; nested entries are in the full listing only."""
    checkpoint, machine = protocol.get("checkpoint"), protocol.get("machine")
    rows = {
        "estimator": protocol["estimator"],
        "data": f"{protocol['dataset']}, version {protocol['data_version']}, split {protocol['split']}, "
        f"{protocol['cases']} cases of {protocol['patients']} patients",
        "volume": f"{_numbers(protocol['volume_size'])} voxels of {_numbers(protocol['spacing'])} mm (D, H, W)",
        "window, data range": "{:g} to {:g} HU, ".format(*protocol["window"]) + f"{protocol['data_range_hu']:g} HU",
        "registration": protocol.get("registration", "none"),
    }
    if protocol.get("sampler"):
        rows["sampler"] = (
            f"{protocol['sampler']}, {protocol.get('steps')} steps, guidance {protocol.get('guidance_scale')}, "
            f"seed {protocol.get('seed')}"
        )
    rows |= {f"population, {name}": _population(values) for name, values in (distribution or {}).items()}
    if checkpoint:
        rows["checkpoint"] = f"{checkpoint['file']}, sha256 {checkpoint['sha256'][:16]}…"
    rows |= {f"definition: {METRIC_LABELS.get(k, k)}": text for k, text in protocol.get("definitions", {}).items()}
    if protocol.get("timings_s"):
        rows["time, s"] = ", ".join(f"{stage} {seconds:g}" for stage, seconds in protocol["timings_s"].items())
    if machine:
        rows["evaluated with"] = _machine(machine)
    packages = ", ".join(f"{name} {version(name)}" for name in ("numpy", "pandas", "matplotlib", "jinja2"))
    rows["page made with"] = f"Python {platform.python_version()}, {packages}"
    return list(rows.items())


def _machine(machine: dict) -> str:
    """Processor and versions in a line; earlier versions recorded fewer."""
    cores = f"{machine['cpus']} cores" + (f" of {machine['processor']}" if "processor" in machine else "")
    apart = ("processor", "cpus", "threads", "gpu")
    named = [f"{name} {value}" for name, value in machine.items() if name not in apart and value]
    return ", ".join([cores, *filter(None, [machine.get("gpu")]), *named])


def _population(values: dict) -> str:
    """Fréchet distances and MMD of one method in a line, with their value for halves of the truth."""
    parts = [
        f"{part}: Fréchet {values['frechet'][part]} (halves of the truth {values['reference'][part]}), "
        f"MMD {values['mmd'][part]}"
        for part in values["frechet"]
    ]
    return "; ".join([*parts, values["warning"] or f"{values['cases']} cases"])


def _numbers(values) -> str:
    return "unknown" if values is None else " × ".join(f"{float(v):g}" for v in values)
