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
from dataset.io.xray_dicom import MODALITIES as RADIOGRAPHS
from dataset.preparation.labels import clean_id, read_csv, rspect_label

COLUMNS = (
    "patient", "ct_accession", "xray_accession", "study_uid", "series_uid", "modality", "location", "label", "split",
)  # fmt: skip
KEYS = ("series_uid", "ct_accession", "study_uid", "patient")  # identifiers of a CT, the most exact first
# Our column -> its published names, in lower case without spaces and underscores.
NAMES = {
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
SPLITS = {"train": "train", "valid": "val", "val": "val", "validation": "val", "test": "test"}


def read_table(path: str | Path) -> pd.DataFrame:
    """One row per CT (or X-ray, where the table lists both), as text, in the columns `COLUMNS`.

    Columns that the table lacks are "", other columns are dropped; `label` is 0, 1 or -1, `split` train, val, test or
    "". Rows per image, as in RSPECT's table, become rows per series.

    Args:
        path: a CSV file, or a folder of CSV files named after their splits (`y_train.csv`, `valid.csv` …).

    Raises:
        UserError: a missing or unreadable file, no column that identifies a CT, an invalid label, or a patient in two
            splits.
    """
    path = Path(path)
    if path.is_dir():
        files = {file: _split_of(file) for file in sorted(path.glob("*.csv")) if _split_of(file)}
        if not files:
            raise UserError(f"{path}: no train.csv, valid.csv or test.csv in it; give one table or a folder of these")
        rows = pd.concat([_read_one(file, split) for file, split in files.items()], ignore_index=True)
    else:
        rows = _read_one(path, "")
    _check_splits(rows, path)
    return rows


def values_by_key(rows: pd.DataFrame, column: str) -> dict[str, object]:
    """`label` or `split` of each CT by the most exact identifier in its row; rows of X-rays do not count."""
    cts = rows[~rows["modality"].isin(RADIOGRAPHS)]
    keys = cts[list(KEYS)].apply(lambda row: next((value for value in row if value), ""), axis=1)
    return {key: value for key, value in zip(keys, cts[column], strict=True) if key}


def pairs_of(rows: pd.DataFrame) -> pd.DataFrame:
    """Pairs of accession numbers in one row, as a table that `dataset.preparation.pairing.pair` reads."""
    both = rows[(rows["ct_accession"] != "") & (rows["xray_accession"] != "")]
    return both.rename(columns={"ct_accession": "ct", "xray_accession": "xray"})[["ct", "xray"]].drop_duplicates()


def _read_one(path: Path, split: str) -> pd.DataFrame:
    raw = read_csv(path)
    plain = {re.sub(r"[\s_]", "", name).lower(): name for name in raw.columns}
    named = {ours: plain[name] for ours, names in NAMES.items() for name in reversed(names) if name in plain}
    if not {"ct_accession", "series_uid", "study_uid", "location", "patient"} & named.keys():
        raise UserError(
            f"{path}: no column that names a CT; found {', '.join(raw.columns)}; known are CT_Accession_number, "
            "Subject ID, File Location, StudyInstanceUID and SeriesInstanceUID"
        )
    rows = pd.DataFrame({name: raw[named[name]].map(clean_id) if name in named else "" for name in COLUMNS})
    if "negative_exam_for_pe" in raw.columns:
        exams = raw.drop_duplicates([c for c in ("negative_exam_for_pe", "indeterminate") if c in raw.columns])
        if "indeterminate" not in exams.columns:
            raise UserError(f"{path}: negative_exam_for_pe without indeterminate; exams of both kinds are 0 there")
        known = {(r["negative_exam_for_pe"], r["indeterminate"]): rspect_label(r) for r in exams.to_dict("records")}
        pairs = zip(raw["negative_exam_for_pe"], raw["indeterminate"], strict=True)
        rows["label"] = [known[pair] for pair in pairs]
    else:
        rows["label"] = _labels(rows["label"], path, named.get("label", ""))
    rows["split"] = split or rows["split"].str.lower().map(lambda name: SPLITS.get(name, ""))
    rows["location"] = rows["location"].map(_posix)
    rows["modality"] = rows["modality"].str.upper()
    other = ~rows["modality"].isin(["", "CT", *RADIOGRAPHS])
    return rows[~other].drop_duplicates().reset_index(drop=True)


def _labels(values: pd.Series, path: Path, column: str) -> pd.Series:
    known = {"1": 1, "0": 0, "": -1, "-1": -1, "2": -1, "true": 1, "false": 0, "positive": 1, "negative": 0}
    lower = values.str.lower()  # 2 means "unknown" in X-ray2CTPA
    wrong = np.flatnonzero(~lower.isin(known))
    if len(wrong):
        raise UserError(f"{path}: row {wrong[0] + 2} has a {column} that is neither 0 nor 1; correct it or empty it")
    return lower.map(known).astype(int)


def _check_splits(rows: pd.DataFrame, path: Path) -> None:
    """Refuse a patient, or a CT in a table without patients, in two splits."""
    for column in ("patient", "ct_accession", "study_uid"):
        given = rows[(rows[column] != "") & (rows["split"] != "")]
        splits = given.groupby(column)["split"].nunique()
        if (splits > 1).any():
            first = splits.index[splits > 1][0]
            where = " and ".join(sorted(set(given.loc[given[column] == first, "split"])))
            raise UserError(f"{path}: {int((splits > 1).sum())} × {column} in two splits (the first in {where})")


def _split_of(file: Path) -> str:
    words = re.split(r"[^a-z]+", file.stem.lower())
    found = {SPLITS[word] for word in words if word in SPLITS}
    return found.pop() if len(found) == 1 else ""


def _posix(location: str) -> str:
    return location.replace("\\", "/").removeprefix("./").strip("/")
