"""From matched files to `metrics.json` and `cases.csv`, in the form that evaluation/compare.py reads."""

import threading
from pathlib import Path

import pandas as pd
from torch import Tensor

from common.errors import UserError
from dataset.imaging.hu_window import Window
from evaluation.protocol import comparability as protocol
from evaluation.scoring import summary as results
from evaluation.scoring.nifti_pairs import read_pair
from evaluation.scoring.score_cases import metric_names, score_cases


def score_files(
    pairs: dict[str, tuple[Path, Path]],
    window: Window,
    output: Path,
    metrics="default",
    method: str = "model",
    samples: int = 0,
    patients: str | None = None,
    split: str = "test",
    seed: int = 0,
) -> dict:
    """Scores every pair, writes both files into `output` and gives back what `metrics.json` holds.

    Args:
        pairs: `{id: (true file, predicted file)}`.
        samples: behind each prediction: 0 for a method that does not sample, 1, or how many were averaged.
        patients: CSV with the columns id and patient; without it each case counts as a patient of its own.

    Raises:
        UserError: files that do not match, or a table that leaves a case out.
    """
    ids = list(pairs)
    owners = _patients(patients, ids)
    cases = _Files(pairs)
    first = cases.case(0)
    names = metric_names(metrics)
    scores = score_cases(cases, lambda i: {method: cases.prediction(i)}, window, owners, ids, metrics=names)
    estimator = protocol.POINT if samples < 1 else protocol.estimator(samples)
    summary = results.summarise(scores, seed) if method == results.MODEL else _one_method(scores, method, seed)
    result = {"protocol": {}} | summary
    result["protocol"] = protocol.describe(
        window=window,
        volume_size=first["ct"].shape,
        spacing=[round(float(s), 4) for s in first["spacing"]],
        samples=samples,
        split=split,
        patients=owners,
        data={"dataset": "files", "version": None},
        data_sha256=protocol.hash_cases((cases.case(i) for i in range(len(ids))), ids),
        metrics=names,
        seed=seed,
    ) | {"estimator": estimator, "estimators": {method: estimator}, "not_measured": scores.attrs["not_measured"]}
    output.mkdir(parents=True, exist_ok=True)
    scores.round(6).to_csv(output / "cases.csv", index=False)
    results.write_metrics(output / "metrics.json", result)
    return result


def _one_method(scores: pd.DataFrame, method: str, seed: int) -> dict:
    renamed = scores.assign(method=scores.method.replace(method, results.MODEL))
    summary = results.summarise(renamed, seed)
    return summary | {"methods": {method: summary["methods"][results.MODEL]}}


class _Files:
    """Pairs behind the interface of a data set; each thread holds the pair it read last, for both are asked for."""

    def __init__(self, pairs: dict[str, tuple[Path, Path]]):
        self._pairs = list(pairs.values())
        self._last = threading.local()

    def case(self, index: int) -> dict:
        return self._read(index)[0]

    def prediction(self, index: int) -> Tensor:
        return self._read(index)[1]

    def _read(self, index: int) -> tuple[dict, Tensor]:
        if getattr(self._last, "index", None) != index:
            self._last.index, self._last.pair = index, read_pair(*self._pairs[index])
        return self._last.pair


def _patients(table: str | None, ids: list[str]) -> list[str]:
    if table is None:
        return ids
    if not Path(table).is_file():
        raise UserError(f"patients={table}: no such file; give a CSV with the columns id and patient")
    rows = pd.read_csv(table, dtype=str)
    if not {"id", "patient"} <= set(rows.columns):
        raise UserError(f"patients={table}: columns {', '.join(rows.columns)}; it needs id and patient")
    if rows["id"].duplicated().any():
        raise UserError(f"patients={table}: id {rows['id'][rows['id'].duplicated()].iloc[0]} stands twice")
    owners = rows.set_index("id")["patient"]
    missing = [name for name in ids if name not in owners.index]
    if missing:
        raise UserError(f"patients={table}: no row for {missing[0]} and {len(missing) - 1} others; list every case")
    return [str(owners[name]) for name in ids]
