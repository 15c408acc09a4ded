"""The user's tables for a preparation: series to use, pairs, labels and splits."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from common.errors import UserError
from common.files import atomic_path
from dataset.io.dicom_series import CtSeries
from dataset.preparation.labels import clean_id, file_stem, read_labels
from dataset.preparation.published_tables import KEYS, RADIOGRAPHS, pairs_of, read_table, values_by_key
from dataset.preparation.radiographs import Radiograph

PAIRS_FILE = "pairs_from_table.csv"  # private, as it names accession numbers: lies beside the linkage table


@dataclass(frozen=True)
class UserTables:
    """What the user's tables say.

    Attributes:
        series: table with the column `series`: SeriesInstanceUIDs, or ids of `candidates.csv`, to use.
        pairs: table of pairs (`dataset.preparation.pairing.pair`).
        labels: identifier (series, study, patient or accession number) -> label.
        label_file: the table of the labels, for messages.
        splits: identifier -> train, val, test or "". Only these CTs belong to the data set; None: all do.
    """

    series: str | Path | None = None
    pairs: str | Path | None = None
    labels: dict[str, int] | None = None
    label_file: str | Path = ""
    splits: dict[str, str] | None = None


def read_user_tables(
    settings: dict[str, Any], series: Sequence[CtSeries], radiographs: Sequence[Radiograph], folder: Path
) -> UserTables:
    """The tables that the user names.

    `from_csv` lists the CTs of the data set with their labels and splits and, where it has the accession numbers of
    both, the pairs; `pairs` and `label.file` override it.

    Args:
        settings: `series`, `pairs`, `from_csv` and `label` as in `config/prepare.yaml`.
        folder: a private folder for pairs made from a table.

    Raises:
        UserError: for a table that cannot be read, or an incomplete `label`.
    """
    label, from_csv = settings["label"], settings["from_csv"]
    pairs, labels, splits = settings["pairs"], None, None
    if label["file"]:
        if missing := [f"label.{name}" for name in ("id", "column") if not label[name]]:
            raise UserError(
                f"label.file={label['file']}: {' and '.join(missing)} is missing; name columns of the table"
            )
        labels = read_labels(label["file"], label["id"], label["column"], label["positive"], label["negative"])
    label_file = label["file"] or from_csv or ""
    if from_csv:
        table = read_table(from_csv)
        splits = {**_splits_by_location(table, series), **values_by_key(table, "split")}
        if labels is None and (table["label"] != -1).any():
            labels = values_by_key(table, "label")
        pairs = pairs if pairs is not None else _write_pairs(table, series, radiographs, folder)
    return UserTables(settings["series"], pairs, labels, label_file, splits)


def _splits_by_location(table: pd.DataFrame, series: Sequence[CtSeries]) -> dict[str, str]:
    """Split of each series whose folder the table names; {} where the table has more exact identifiers than that."""
    rows = table[(table["location"] != "") & ~table["modality"].isin(RADIOGRAPHS)]
    if rows.empty or rows[list(KEYS)].drop(columns="patient").ne("").any(axis=None):
        return {}
    splits = dict(zip(rows["location"], rows["split"], strict=True))
    found = {}
    for one in series:
        folders = one.files[0].parent.as_posix().strip("/").split("/")
        tails = ("/".join(folders[i:]) for i in range(len(folders)))
        match = next((tail for tail in tails if tail in splits), None)
        if match is not None:
            found[one.key] = splits[match]
    return found


def _write_pairs(
    table: pd.DataFrame, series: Sequence[CtSeries], radiographs: Sequence[Radiograph], folder: Path
) -> Path | None:
    """A file with the pairs of the table of which both images are in the source; None if there are none."""
    rows = pairs_of(table)
    cts = set()
    for one in series:
        cts |= {clean_id(n) for n in (one.identity.accession, file_stem(one.files[0]), one.files[0].parent.name)}
    xrays = {clean_id(name) for one in radiographs for name in (one.accession, file_stem(one.path))}
    rows = rows[rows["ct"].isin(cts) & rows["xray"].isin(xrays)]
    if rows.empty:
        return None
    path = folder / PAIRS_FILE
    with atomic_path(path) as temporary:
        rows.to_csv(temporary, index=False)
        temporary.chmod(0o600)
    return path
