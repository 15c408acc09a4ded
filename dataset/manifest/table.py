"""The table of a data set, `manifest.csv`: CT, X-rays, patient, label and split of each case.

Paths are relative to the folder of the table. Several X-rays of a case are separated by semicolons:
`xray=a_pa.png;a_lat.png`, `view=PA;lateral`.
"""

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from common.errors import UserError
from common.files import atomic_path
from dataset.imaging.geometry import VIEWS
from dataset.manifest.read_csv import read_csv
from dataset.manifest.separated import parts

EMPTY = {  # every column with its value for unknown
    "id": "",
    "patient": "",
    "ct": "",
    "xray": "",  # empty = DRR of the CT
    "view": "",
    "xray_source": "",
    "hours_xray_to_ct": np.nan,
    "age": -1,
    "sex": "",
    "label": -1,
    "split": "",
    "fold": -1,
    "spacing": "",  # "d h w" mm of the CT
    "source_hash": "",
    "parents": "",  # patients "a;b" whose CTs made a synthetic one; empty = the case is of its own patient
}
COLUMNS = tuple(EMPTY)
NUMBERS = {"hours_xray_to_ct": float, "age": int, "label": int, "fold": int}
MOST = 9999  # age or fold
LONGEST_ID = 150  # bytes: names of files add to it, and a file system takes 255
NO_FILE_NAME = re.compile(r"[/\\\x00-\x1f]|^\.")
SPLITS = ("train", "val", "test")
LABELS = (0, 1, -1)  # negative, positive, unknown
DRR, DRR_CONTRAST, FILM, VOLUME = XRAY_SOURCES = ("drr", "drr_contrast", "film", "volume")
DICOM_AGE = r"^(\d{1,3})([YMWDymwd])$"  # as Patient's Age writes it, 063Y
AGE_MONTHS = {unit: months for keys, months in (("Yy", 12.0), ("Mm", 1.0), ("WwDd", 0.0)) for unit in keys}
COLUMN_HELP = (
    "id, patient, ct (NIfTI file or DICOM folder, relative to this folder); "
    "optional: xray (file; empty = DRR of the CT; frontal;lateral for two), view (PA, AP, lateral), "
    "label (0, 1, -1 = unknown), split (train, val, test), fold (0, 1, ...), age, sex, hours_xray_to_ct"
)


def make_rows(records: Iterable[dict]) -> pd.DataFrame:
    """A manifest of records; missing columns get the values of `EMPTY`."""
    records = [{**EMPTY, **record} for record in records]
    return pd.DataFrame(records, columns=list(records[0] if records else COLUMNS))


def read_manifest(
    path: str | Path, label_column: str = "label", target_column: str = "ct", source_column: str = "xray"
) -> pd.DataFrame:
    """A valid manifest with all of `COLUMNS` and the other columns of the file; UserError for any other table.

    `label_column` becomes `label`; `target_column`, the volumes to generate, becomes `ct`; `source_column`, the input
    of the model, becomes `xray`.
    """
    rows = parse_manifest(path, label_column, target_column, source_column)
    for i, name in enumerate(rows["id"], start=2):
        if NO_FILE_NAME.search(name) or len(name.encode()) > LONGEST_ID:
            raise UserError(
                f"{path}: row {i} has id={name[:LONGEST_ID]}, which cannot be the name of a file; give at most "
                f"{LONGEST_ID} bytes, no slash and no dot in front"
            )
    return rows


def parse_manifest(
    path: str | Path, label_column: str = "label", target_column: str = "ct", source_column: str = "xray"
) -> pd.DataFrame:
    """As `read_manifest`, with any id: for the tables of earlier runs, whose files exist."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; it must be a table with the columns {COLUMN_HELP}")
    rows = read_csv(path)
    known = {name: name.lower() for name in rows.columns if name.lower() in COLUMNS}
    rows = rows.rename(columns={name: ours for name, ours in known.items() if ours not in rows.columns})
    if rows.columns.has_duplicates:
        twice = rows.columns[rows.columns.duplicated()][0]
        raise UserError(f"{path}: two columns are called {twice!r}; rename or remove one")
    absent = [name for name in ("id", "patient", target_column) if name not in rows.columns]
    if absent:
        raise UserError(f"{path}: column {', '.join(absent)} is missing; columns: {COLUMN_HELP}")
    for key, ours, name in (("label_column", "label", label_column), ("source_column", "xray", source_column)):
        if name != ours and name not in rows.columns:
            found = ", ".join(rows.columns)
            raise UserError(f"{path}: no column {name} (dataset.{key}); the table has {found}")
    given = {"label": label_column, "xray": source_column, "ct": target_column}
    rows = rows.assign(**{ours: rows[name] for ours, name in given.items() if name in rows.columns})
    for name, value in EMPTY.items():
        text = "" if isinstance(value, float) else str(value)
        rows[name] = rows[name].replace("", text) if name in rows.columns else text
    for name in ("ct", "xray"):
        rows[name] = rows[name].str.replace("\\", "/")  # as Windows separates folders
    for name in NUMBERS:
        rows[name] = rows[name].str.replace(",", ".")
        rows[name] = rows[name].where(rows[name].str.lower() != "nan", "" if NUMBERS[name] is float else "-1")
    years = rows["age"].str.extract(DICOM_AGE)
    months = years[0].astype(float) * years[1].map(AGE_MONTHS)
    rows["age"] = rows["age"].where(months.isna(), (months // 12).astype("Int64").astype(str))
    implied = rows["xray"].map(lambda xray: FILM if xray else DRR)
    rows["xray_source"] = rows["xray_source"].where(rows["xray_source"] != "", implied)
    _validate(rows, path, one_view_each=source_column == "xray")
    for name, kind in NUMBERS.items():
        rows[name] = pd.to_numeric(rows[name]).astype(kind)
    return rows[[*COLUMNS, *(name for name in rows.columns if name not in COLUMNS)]]


def _validate(rows: pd.DataFrame, path: Path, one_view_each: bool) -> None:
    if rows.empty:
        raise UserError(f"{path}: no rows; give one per CT with {COLUMN_HELP}")
    for name in ("id", "patient", "ct"):
        empty = np.flatnonzero(rows[name].astype(str).str.strip() == "")
        if len(empty):
            raise UserError(f"{path}: row {empty[0] + 2} has no {name}; fill it in")
    repeated = rows["id"][rows["id"].duplicated()]
    if len(repeated):
        raise UserError(f"{path}: id {repeated.iloc[0]} stands in two rows; ids must be unique")
    for name in ("hours_xray_to_ct", "age", "fold"):
        numbers, whole = pd.to_numeric(rows[name], errors="coerce"), NUMBERS[name] is int
        right = np.isfinite(numbers) & ((numbers % 1 == 0) & numbers.between(-1, MOST) if whole else True)
        wrong = np.flatnonzero(~right & (rows[name] != ""))
        if len(wrong):
            kind = "a whole number, -1 if unknown" if whole else "a number"
            raise UserError(f"{path}: row {wrong[0] + 2} has {name}={rows[name].iloc[wrong[0]]}; give {kind}")
    choices = {"label": [str(v) for v in LABELS], "split": [*SPLITS, ""], "xray_source": list(XRAY_SOURCES)}
    for name, allowed in choices.items():
        values = rows[name].astype(str).str.removesuffix(".0")
        wrong = np.flatnonzero(~values.isin(allowed))
        if len(wrong):
            shown = ", ".join(value for value in allowed if value)
            raise UserError(f"{path}: row {wrong[0] + 2} has {name}={values.iloc[wrong[0]]}; choose {shown}")
    for i, (xray, view) in enumerate(zip(rows["xray"], rows["view"], strict=True)):
        xrays, views = parts(xray), parts(view)
        if any(v not in VIEWS for v in views):
            raise UserError(f"{path}: row {i + 2} has view={view}; choose {', '.join(VIEWS)}")
        if one_view_each and len(xrays) > 1 and len(xrays) != len(views):
            raise UserError(f"{path}: row {i + 2} has {len(xrays)} X-rays but view={view}; name a view for each")
    known_fold = pd.to_numeric(rows["fold"]).fillna(-1) >= 0
    for name, given in (("split", rows[rows["split"] != ""]), ("fold", rows[known_fold])):
        places = given.groupby("patient")[name].nunique()
        if (places > 1).any():
            patient = places.index[places > 1][0]
            where = " and ".join(sorted(given.loc[given["patient"] == patient, name].astype(str).unique()))
            raise UserError(f"{path}: patient {patient} is in {where}; a patient belongs to one {name}")


def write_manifest(rows: pd.DataFrame, path: str | Path) -> None:
    """Writes the table atomically, unless the file has this content already: it may be in a folder for reading."""
    path, content = Path(path), rows.to_csv(index=False).encode()
    if path.is_file() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
