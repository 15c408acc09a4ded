"""The user's tables for a preparation: series to use, pairs, labels and splits."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from common.errors import UserError
from common.files import atomic_path
from dataset.io.dicom_series import CtSeries
from dataset.preparation.labels import path_tails, read_labels
from dataset.preparation.pairing import names_of
from dataset.preparation.published_tables import KEYS, RADIOGRAPHS, one_value_each, read_table, values_by_key
from dataset.preparation.radiographs import Radiograph

PAIRS_FILE = "pairs_from_table.csv"  # beside the linkage table, as it holds accession numbers


@dataclass(frozen=True)
class UserTables:
    """The contents of the user's tables. Identifiers are series, study, patient or accession number."""

    series: str | None  # table with the column `series`: SeriesInstanceUIDs, or ids of `candidates.csv`, to use
    pairs: str | Path | None  # table of pairs (`dataset.preparation.pairing.pair`)
    labels: dict[str, int] | None  # identifier -> label
    label_file: str  # table of the labels, for messages
    splits: dict[str, str] | None  # identifier -> train, val, test or "" of the CTs of the data set; None: all CTs


def read_user_tables(
    settings: dict[str, Any], series: Sequence[CtSeries], radiographs: Sequence[Radiograph], folder: Path
) -> UserTables:
    """The tables that the user names.

    `from_csv` lists the CTs of the data set with their labels and splits and, where it has the accession numbers of
    both, the pairs; `pairs` and `label.file` override it.

    Args:
        settings: `config/prepare.yaml` as a dictionary.
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
    if from_csv:
        table = read_table(from_csv)
        splits = {**_splits_by_location(table, series), **values_by_key(table, "split")}
        if labels is None and (table["label"] != -1).any():
            labels = values_by_key(table, "label")
        pairs = pairs if pairs is not None else _write_pairs(table, series, radiographs, folder / PAIRS_FILE)
    return UserTables(settings["series"], pairs, labels, label["file"] or from_csv or "", splits)


def _splits_by_location(table: pd.DataFrame, series: Sequence[CtSeries]) -> dict[str, str]:
    """Split of each series whose folder the table names; {} where the table has more exact identifiers than that."""
    rows = table[(table["location"] != "") & ~table["modality"].isin(RADIOGRAPHS)]
    if rows[list(KEYS)].drop(columns="patient").ne("").any(axis=None):
        return {}
    splits = one_value_each(rows["location"], rows["split"])
    tails = {one.key: [tail for tail in path_tails(one.files[0].parent) if tail in splits] for one in series}
    return {key: splits[found[0]] for key, found in tails.items() if found}


def _write_pairs(
    table: pd.DataFrame, series: Sequence[CtSeries], radiographs: Sequence[Radiograph], path: Path
) -> Path | None:
    """A file with the accession numbers of pairs of which both images are in the source; None if there are none."""
    both = table["ct_accession"].isin(names_of(series)[1]) & table["xray_accession"].isin(names_of(radiographs)[1])
    if not both.any():
        return None
    rows = table.loc[both, ["ct_accession", "xray_accession"]].drop_duplicates().set_axis(["ct", "xray"], axis=1)
    with atomic_path(path) as temporary:
        rows.to_csv(temporary, index=False)
        temporary.chmod(0o600)
    return path
