"""Published tables of data sets, read with our column names: `from_csv=` of the preparation.

Supported are the tables of X-ray2CTPA (`CT_Accession_number`, `cxr_Accession_number`, `PE`), of downloads from The
Cancer Imaging Archive such as LIDC-IDRI (`Subject ID`, `Modality`, `File Location`), and of RSPECT
(`StudyInstanceUID`, `SeriesInstanceUID`, `negative_exam_for_pe` …). The files `train.csv`, `valid.csv`, `test.csv`
of a folder are one table, and their names are the splits.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from common.errors import UserError
from common.files import visible
from dataset.io.xray_dicom import MODALITIES as RADIOGRAPHS
from dataset.manifest.read_csv import read_csv
from dataset.preparation.labels import RSPECT_COLUMNS, clean_id, expect_one_split, rspect_labels

KEYS = ("series_uid", "ct_accession", "study_uid", "patient")  # identifiers of a CT, the most exact first
COLUMNS = {  # our column -> its published names, in lower case without spaces and underscores
    "patient": ("patient", "patientid", "subjectid"),
    "ct_accession": ("ctaccessionnumber",),
    "xray_accession": ("cxraccessionnumber",),
    "study_uid": ("studyinstanceuid", "studyuid"),
    "series_uid": ("seriesinstanceuid", "seriesuid"),
    "modality": ("modality",),
    "location": ("filelocation",),
    "label": ("pe", "label"),
    "split": ("split",),
}
UNKNOWN = ("", -1)  # split, label
SPLITS = {"train": "train", "valid": "val", "val": "val", "validation": "val", "test": "test"}
# 2 means "unknown" in X-ray2CTPA
LABELS = {"1": 1, "0": 0, "": -1, "-1": -1, "2": -1, "true": 1, "false": 0, "positive": 1, "negative": 0}


def read_table(path: str | Path) -> pd.DataFrame:
    """One row per CT (or X-ray, where the table lists both), as text, in the columns `COLUMNS`.

    Columns that the table lacks are "", other columns are dropped; `label` is 0, 1 or -1, `split` train, val, test or
    "". Rows per image, as in RSPECT's table, become rows per series. The index names file and row, for messages.

    Args:
        path: a CSV file, or a folder of CSV files named after their splits (`y_train.csv`, `valid.csv` …).

    Raises:
        UserError: a missing or unreadable file, no column that identifies a CT, an invalid label, or a patient in two
            splits.
    """
    path = Path(path)
    files = {path: ""}
    if path.is_dir():
        files = {file: split for file in visible(path.glob("*.csv")) if (split := _split_of(file))}
        if not files:
            raise UserError(f"{path}: no train.csv, valid.csv or test.csv in it; give one table or a folder of these")
    rows = pd.concat([_read_one(file, split) for file, split in files.items()])
    for column in ("patient", "ct_accession", "study_uid"):
        expect_one_split(rows[column], rows["split"], path, f"× {column}")
    return rows


def values_by_key(rows: pd.DataFrame, column: str) -> dict[str, object]:
    """`label` or `split` of each CT by the most exact identifier in its row; rows of X-rays do not count.

    UserError for a CT with two values; rows without a value do not count beside one with.
    """
    cts = rows[~rows["modality"].isin(RADIOGRAPHS)]
    keys = cts[list(KEYS)].where(cts[list(KEYS)] != "").bfill(axis=1).iloc[:, 0].dropna()
    return one_value_each(keys, cts[column])


def one_value_each(keys: pd.Series, values: pd.Series) -> dict[str, object]:
    """The value of each key, "" or -1 only if no row of the key has another; UserError for two, with their rows."""
    pairs = pd.DataFrame({"key": keys, "value": values[keys.index]})
    known = pairs[~pairs["value"].isin(UNKNOWN)].drop_duplicates()
    for _, rows in known[known["key"].duplicated(keep=False)].groupby("key"):
        raise UserError(f"{' and '.join(rows.index[:2])} give one CT or patient two values of {values.name}; keep one")
    return {**dict(pairs.to_numpy()), **dict(known.to_numpy())}


def _read_one(path: Path, split: str) -> pd.DataFrame:
    raw = read_csv(path)
    plain = {re.sub(r"[\s_]", "", name).lower(): name for name in raw.columns}
    named = {ours: plain[name] for ours, names in COLUMNS.items() for name in reversed(names) if name in plain}
    if not {"ct_accession", "series_uid", "study_uid", "location", "patient"} & named.keys():
        raise UserError(
            f"{path}: no column that names a CT; found {', '.join(raw.columns)}; known are CT_Accession_number, "
            "Subject ID, File Location, StudyInstanceUID and SeriesInstanceUID"
        )
    rows = pd.DataFrame({name: raw[named[name]].map(clean_id) if name in named else "" for name in COLUMNS})
    if RSPECT_COLUMNS[0] in raw.columns:
        if RSPECT_COLUMNS[1] not in raw.columns:
            raise UserError(f"{path}: negative_exam_for_pe without indeterminate; exams of both kinds are 0 there")
        rows["label"] = rspect_labels(raw)
    else:
        labels = rows["label"].str.lower()
        wrong = np.flatnonzero(~labels.isin(LABELS))
        if len(wrong):
            raise UserError(
                f"{path}: row {wrong[0] + 2} has a {named['label']} that is neither 0 nor 1; correct it or empty it"
            )
        rows["label"] = labels.map(LABELS).astype(int)
    rows["split"] = split or rows["split"].str.lower().map(lambda name: SPLITS.get(name, ""))
    rows["location"] = rows["location"].map(lambda path: path.replace("\\", "/").removeprefix("./").strip("/"))
    rows["modality"] = rows["modality"].str.upper()
    rows = rows[rows["modality"].isin(["", "CT", *RADIOGRAPHS])].drop_duplicates()
    return rows.set_axis([f"{path}: row {row + 2}" for row in rows.index])


def _split_of(file: Path) -> str:
    found = {SPLITS[word] for word in re.split(r"[^a-z]+", file.stem.lower()) if word in SPLITS}
    return found.pop() if len(found) == 1 else ""
