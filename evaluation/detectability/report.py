"""Table and files of the lesion benchmark."""

from pathlib import Path

import pandas as pd

from common.files import atomic_path, write_json
from dataset.io.nifti import SYNTHETIC
from evaluation.detectability.detect import unit, verdicts
from evaluation.visualization.text import estimate_text, markdown_table

RESULTS = ("lesions.*", "metrics.json")
LESIONS = {
    "nodule_10": "nodule of 10 mm",
    "nodule_20": "nodule of 20 mm",
    "nodule_30": "nodule of 30 mm",
    "effusion": "effusion",
    "collapsed_lobe": "airless lobe",
    "clot": "clot in a pulmonary artery",
    "airless_half": "airless half of a lung",
}
METHODS = {
    "xray": "X-ray",
    "truth": "true volume",
    "model": "model",
    "model_sample": "model, one sample",
    "ridge": "ridge regression",
    "regression": "regression",
}
VERDICTS = {
    "detectable": "detectable at its known place",
    "not shown": "not shown to be detectable",
    "not recoverable": "not recoverable: it does not change the X-ray, so any generated one is invented",
}


def markdown(scores: pd.DataFrame, summary: dict[str, dict[str, dict]]) -> str:
    """A table with a row for each lesion and method, a line for each lesion on what the model keeps, and a warning
    where the patients are too few for an interval.
    """
    rows = []
    for lesion, methods in summary.items():
        for method, found in methods.items():
            unchanged = "unchanged" if method == "xray" and found["subjects"] == 0 else "–"
            known = estimate_text(found["known_auc"], 2, missing=unchanged)
            blind, kept = (estimate_text(found[key], 2) for key in ("blind_auc", "kept"))
            rows.append([LESIONS[lesion], METHODS.get(method, method), str(found["subjects"]), known, blind, kept])
    head = ["lesion", "method", "chests", "AUC, known place", "AUC, blind search", "share of the contrast"]
    words = [f"- {LESIONS[lesion]}: {VERDICTS[word]}" for lesion, word in verdicts(summary).items()]
    few = scores.patient.nunique()
    if unit(scores) == "subject" and few < scores.subject.nunique():
        words += ["", f"{few} patient{'s are' if few > 1 else ' is'} too few: intervals count places, for them alone."]
    return "\n".join([f"{SYNTHETIC}.", "", *markdown_table(head, rows), "", "The model:", "", *words, ""])


def write_lesions(output: Path, scores: pd.DataFrame, summary: dict, run: dict) -> str:
    """Writes lesions.csv, lesions.md and metrics.json into `output`; returns the table."""
    output.mkdir(parents=True, exist_ok=True)
    with atomic_path(output / "lesions.csv") as temporary:
        scores.to_csv(temporary, index=False, float_format="%.6g")
    result = {"lesions": summary, "verdicts": verdicts(summary), "run": run}
    write_json(output / "metrics.json", result)
    table = markdown(scores, summary)
    (output / "lesions.md").write_text(table, encoding="utf-8")
    return table
