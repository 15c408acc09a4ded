"""Scores matched files by the protocol of evaluation/evaluate.py."""

import threading
from pathlib import Path

from torch import Tensor

from common.errors import UserError
from dataset.imaging.hu_window import Window
from dataset.manifest.read_csv import read_csv
from evaluation.protocol import comparability as protocol
from evaluation.scoring.nifti_pairs import read_pair
from evaluation.scoring.score_cases import metric_names, score_cases
from evaluation.scoring.scored import Scored


def score_files(
    pairs: dict[str, tuple[Path, Path]],
    window: Window,
    metrics="default",
    method: str = "model",
    samples: int = 0,
    patients: str | None = None,
    split: str = "test",
    seed: int = 0,
) -> Scored:
    """Scores every pair.

    Raises UserError for files that do not match and for a table without one of the cases.

    Args:
        pairs: `{id: (true file, predicted file)}`.
        samples: averaged in each prediction; 0 for a deterministic method.
        patients: CSV with the columns id and patient; None: each case is a patient of its own.
    """
    ids = list(pairs)
    owners = ids if patients is None else _patients(patients, ids)
    cases = _Files(pairs, window.low)
    first = cases.case(0)
    names = metric_names(metrics)
    scores = score_cases(cases, lambda i: {method: cases.prediction(i)}, window, owners, ids, metrics=names)
    described = protocol.describe(
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
    )
    return Scored(described | {"estimators": {method: described["estimator"]}}, scores, seed)


class _Files:
    """Pairs as cases and predictions; each thread keeps the pair that it read last."""

    def __init__(self, pairs: dict[str, tuple[Path, Path]], clipped_at: float):
        self._pairs, self._clipped_at = list(pairs.values()), clipped_at
        self._last = threading.local()

    def case(self, index: int) -> dict:
        return self._read(index)[0]

    def prediction(self, index: int) -> Tensor:
        return self._read(index)[1]

    def _read(self, index: int) -> tuple[dict, Tensor]:
        if getattr(self._last, "index", None) != index:
            self._last.index, self._last.pair = index, read_pair(*self._pairs[index], self._clipped_at)
        return self._last.pair


def _patients(table: str, ids: list[str]) -> list[str]:
    if not Path(table).is_file():
        raise UserError(f"patients={table}: no such file; give a CSV with the columns id and patient")
    rows = read_csv(table)
    if not {"id", "patient"} <= set(rows.columns):
        raise UserError(f"patients={table}: columns {', '.join(rows.columns)}; it needs id and patient")
    if rows["id"].duplicated().any():
        raise UserError(f"patients={table}: two rows with id {rows['id'][rows['id'].duplicated()].iloc[0]}; keep one")
    owners = rows.set_index("id")["patient"]
    missing = [name for name in ids if name not in owners.index]
    if missing:
        raise UserError(f"patients={table}: no row for {missing[0]} and {len(missing) - 1} others; list every case")
    return [str(owners[name]) for name in ids]
