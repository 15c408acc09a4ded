"""What the user's tables ask for, in the words of the plan: picks, pairs, labels and splits."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from common.errors import UserError
from common.files import atomic_path
from dataset.io.dicom_series import CtSeries
from dataset.preparation.labels import clean_id, read_labels
from dataset.preparation.published_tables import KEYS, RADIOGRAPHS, pairs_of, read_table, values_by_key
from dataset.preparation.radiographs import Radiograph

PAIRS_FILE = "pairs_from_table.csv"  # beside the linkage table: it names accession numbers


def read_wishes(
    settings: dict[str, Any], series: Sequence[CtSeries], radiographs: Sequence[Radiograph], folder: Path
) -> dict[str, Any]:
    """Keyword arguments of `dataset.preparation.plan.make_plan`: picks, pairs, labels, label_file, splits.

    A table given as `from_csv` says which CTs belong to the set, their labels and splits, and, where it has the
    accession numbers of both, the pairs; `pairs=` and `label.file=` go before it.

    Args:
        settings: `series`, `pairs`, `from_csv` and `label` as in `config/prepare.yaml`.
        folder: a private folder for pairs made from a table.

    Raises:
        UserError: for a table that cannot be read, or an incomplete `label`.
    """
    wishes: dict[str, Any] = {"picks": settings["series"], "pairs": settings["pairs"]}
    label = settings["label"]
    if label["file"]:
        if missing := [f"label.{name}" for name in ("id", "column") if not label[name]]:
            raise UserError(
                f"label.file={label['file']}: {' and '.join(missing)} is missing; name columns of the table"
            )
        wishes["labels"] = read_labels(
            label["file"], label["id"], label["column"], label["positive"], label["negative"]
        )
        wishes["label_file"] = label["file"]
    if settings["from_csv"]:
        table = read_table(settings["from_csv"])
        wishes["splits"] = {**_located(table, series), **values_by_key(table, "split")}
        if "labels" not in wishes and (table["label"] != -1).any():
            wishes["labels"], wishes["label_file"] = values_by_key(table, "label"), settings["from_csv"]
        if wishes["pairs"] is None:
            wishes["pairs"] = _pairs(table, series, radiographs, folder)
    return wishes


def _located(table: pd.DataFrame, series: Sequence[CtSeries]) -> dict[str, str]:
    """Split of each series whose folder the table gives as a location: it then names series and not whole patients."""
    rows = table[(table["location"] != "") & ~table["modality"].isin(RADIOGRAPHS)]
    if rows.empty or rows[list(KEYS)].drop(columns="patient").ne("").any(axis=None):
        return {}
    splits = dict(zip(rows["location"], rows["split"], strict=True))
    found = {}
    for one in series:
        parts = one.files[0].parent.as_posix().strip("/").split("/")
        tails = ["/".join(parts[i:]) for i in range(len(parts))]
        match = next((tail for tail in tails if tail in splits), None)
        if match is not None:
            found[one.key] = splits[match]
    return found


def _pairs(
    table: pd.DataFrame, series: Sequence[CtSeries], radiographs: Sequence[Radiograph], folder: Path
) -> Path | None:
    """Pairs of the table of which both sides are in the source, as a file that the pairing reads."""
    rows = pairs_of(table)
    cts = {
        clean_id(name)
        for one in series
        for name in (one.identity.accession, _stem(one.files[0]), one.files[0].parent.name)
    }
    films = {clean_id(name) for one in radiographs for name in (one.accession, _stem(one.path))}
    rows = rows[rows["ct"].isin(cts) & rows["xray"].isin(films)]
    if rows.empty:
        return None
    path = folder / PAIRS_FILE
    with atomic_path(path) as temporary:
        rows.to_csv(temporary, index=False)
        temporary.chmod(0o600)
    return path


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").rpartition(".")[0] or path.name
