"""The manifest: one table `manifest.csv` says which CT, X-ray, patient, label and split make a case.

Paths in it are relative to the folder that holds it.
"""

import logging
from pathlib import Path

import numpy as np
import pandas as pd

from dataset.errors import UserError
from dataset.files import atomic_path

COLUMNS = ("id", "patient", "ct", "xray", "view", "xray_source", "label", "split")
REQUIRED = ("id", "patient", "ct")  # the others may be missing or empty
SPLITS = ("train", "val", "test")
LABELS = (0, 1, -1)  # negative, positive, unknown
XRAY_SOURCES = ("drr", "film")
COLUMN_HELP = (
    "id, patient, ct (NIfTI file or DICOM folder, relative to this folder); "
    "optional: xray (file; empty = made from the CT), view, label (0, 1, -1 = unknown), split (train, val, test)"
)

log = logging.getLogger(__name__)


def read_manifest(path: str | Path, label_column: str = "label") -> pd.DataFrame:
    """A validated manifest with all of `COLUMNS`; columns beyond them are kept.

    `label_column` names the column that holds the label, which becomes `label`. An empty split stays empty.

    Raises:
        UserError: if the table cannot be read or breaks a rule of `validate_manifest`.
    """
    path = Path(path)
    try:
        rows = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; it must be a table with the columns {COLUMN_HELP}") from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable CSV table ({error}); columns: {COLUMN_HELP}") from error
    rows.columns = [str(name).strip() for name in rows.columns]
    absent = [name for name in REQUIRED if name not in rows.columns]
    if absent:
        raise UserError(f"{path}: column {', '.join(absent)} is missing; columns: {COLUMN_HELP}")
    if label_column != "label" and label_column not in rows.columns:
        found = ", ".join(rows.columns)
        raise UserError(f"{path}: no column {label_column} as dataset.label_column asks; the table has {found}")
    if label_column in rows.columns:
        rows["label"] = rows[label_column]
    defaults = {"xray": "", "view": "PA", "label": "-1", "split": ""}
    for name, value in defaults.items():
        rows[name] = rows[name].str.strip().replace("", value) if name in rows.columns else value
    if "xray_source" not in rows.columns:
        rows["xray_source"] = ""
    implied = rows["xray"].map(lambda xray: "film" if xray else "drr")
    rows["xray_source"] = rows["xray_source"].where(rows["xray_source"] != "", implied)
    validate_manifest(rows, path)
    rows["label"] = rows["label"].astype(float).astype(int)
    return rows[[*COLUMNS, *(name for name in rows.columns if name not in COLUMNS)]]


def validate_manifest(rows: pd.DataFrame, path: str | Path = "manifest.csv") -> None:
    """Refuse a table that would train on a lie.

    Raises:
        UserError: for no row at all, an empty or repeated id, an empty patient or ct, a label, split or X-ray source
            outside its choices, or a patient in two splits.
    """
    if rows.empty:
        raise UserError(f"{path}: no rows; give one per CT with {COLUMN_HELP}")
    for name in REQUIRED:
        empty = np.flatnonzero(rows[name].astype(str).str.strip() == "")
        if len(empty):
            raise UserError(f"{path}: row {empty[0] + 2} has no {name}; fill it in")
    repeated = rows["id"][rows["id"].duplicated()]
    if len(repeated):
        raise UserError(f"{path}: id {repeated.iloc[0]} stands in two rows; ids must be unique")
    choices = {"label": [str(v) for v in LABELS], "split": [*SPLITS, ""], "xray_source": list(XRAY_SOURCES)}
    for name, allowed in choices.items():
        values = rows[name].astype(str).str.removesuffix(".0")
        wrong = np.flatnonzero(~values.isin(allowed))
        if len(wrong):
            shown = ", ".join(value for value in allowed if value)
            raise UserError(f"{path}: row {wrong[0] + 2} has {name}={values.iloc[wrong[0]]}; choose {shown}")
    given = rows[rows["split"] != ""]
    splits = given.groupby("patient")["split"].nunique()
    if (splits > 1).any():
        patient = splits.index[splits > 1][0]
        where = " and ".join(sorted(given.loc[given["patient"] == patient, "split"].unique()))
        raise UserError(f"{path}: patient {patient} is in {where}; a patient belongs to one split")


def write_manifest(rows: pd.DataFrame, path: str | Path) -> None:
    """Write the table, atomically."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        rows.to_csv(temporary, index=False)


def assign_splits(
    rows: pd.DataFrame, val: float = 0.1, test: float = 0.1, seed: int = 0, known: dict[str, str] | None = None
) -> pd.DataFrame:
    """Fill empty splits by patient, stratified by label, fixed by `seed`; a split that is given stays.

    `val` and `test` are shares of the patients. From three patients on each of the two has at least one; two patients
    are train and val; one is train. `known` maps patients to the split they had before: they keep it, so that
    a folder that grows never moves a patient from test to train.
    """
    known = {patient: split for patient, split in (known or {}).items() if split}
    rows = rows.copy()
    given = rows[rows["split"] != ""].groupby("patient")["split"].first().to_dict()
    settled = {**known, **given}
    open_rows = rows[~rows["patient"].isin(settled)]
    labels = open_rows.groupby("patient")["label"].max()
    # Within each label the patients are shuffled and spread evenly over [0, 1); sorted by that place, every stretch
    # of the list holds the labels in about their overall proportion.
    placed = []
    for label in sorted(labels.unique()):
        patients = sorted(labels.index[labels == label])
        order = np.random.default_rng([int(seed), int(label) + 1]).permutation(len(patients))
        placed += [((rank + 0.5) / len(patients), patients[i]) for rank, i in enumerate(order)]
    patients = [patient for _, patient in sorted(placed)]
    count = len(patients)
    if settled:  # newcomers join at the same shares, without the guarantee of one each
        n_val, n_test = round(count * val), round(count * test)
    else:
        n_val = max(1, round(count * val)) if count >= 2 and val > 0 else 0
        n_test = max(1, round(count * test)) if count >= 3 and test > 0 else 0
    for i, patient in enumerate(patients):
        settled[patient] = "test" if i < n_test else "val" if i < n_test + n_val else "train"
    rows["split"] = rows["patient"].map(settled)
    return rows
