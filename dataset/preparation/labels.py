"""Tables of the user: identifiers, and labels of cases (1 positive, 0 negative, -1 unknown)."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from common.errors import UserError
from dataset.manifest.read_csv import read_csv

UNKNOWN = {"", "nan", "na", "n/a", "none", "null", "unknown", "-1", "?"}
NEGATIVE = {"0", "no", "n", "false", "negative"}  # a table with these values alone has no positive case
SHOWN = 6  # values in a message
RSPECT_COLUMNS = ["negative_exam_for_pe", "indeterminate"]

log = logging.getLogger(__name__)


def read_labels(
    file: str | Path, id_column: str, label_column: str, positive: str | int | Iterable = 1, negative=None
) -> dict[str, int]:
    """The label of each id of a CSV table.

    Several rows of an id (one per image) must agree. For RSPECT's table, `label_column=negative_exam_for_pe` applies
    `rspect_labels` and ignores `positive`.

    Args:
        file: the table, comma, semicolon or tab separated.
        id_column: column with an identifier of the case in the source (patient, study, accession number …).
        positive: the value, or values, that mean positive.
        negative: the value, or values, that mean negative; None: every other value, if there is only one.

    Raises:
        UserError: an unreadable table, a missing column, a value that is neither, no positive value, or contradictory
            rows of one id. Messages name rows, not ids.
    """
    rspect = label_column == RSPECT_COLUMNS[0]
    rows = read_csv(file, [id_column, *(RSPECT_COLUMNS if rspect else [label_column])])
    rows = rows.drop_duplicates()  # the index is still the row of the file
    ids = rows[id_column].map(clean_id)
    labels = rspect_labels(rows) if rspect else _labels_by_value(rows[label_column], file, positive, negative)
    different = pd.DataFrame({"id": ids, "label": labels})[ids != ""].drop_duplicates()
    twice = different[different["id"].duplicated(keep=False)]
    if len(twice):
        first, second = (int(i) + 2 for i in twice.index[twice["id"] == twice["id"].iloc[0]][:2])
        raise UserError(f"{file}: rows {first} and {second} give one {id_column} two labels; correct {label_column}")
    return dict(zip(different["id"], different["label"].astype(int), strict=True))


def rspect_labels(rows: pd.DataFrame) -> pd.Series:
    """The labels of studies in RSPECT (RSNA 2020): 0 a negative exam, 1 an embolism, -1 indeterminate or unknown.

    `negative_exam_for_pe=0` does not mean an embolism: it includes indeterminate exams.
    """
    flags = {"1": 1, "true": 1, "0": 0, "false": 0}
    negative, indeterminate = (rows[name].map(_plain).map(flags) for name in RSPECT_COLUMNS)
    return (1 - negative).where(indeterminate == 0).fillna(-1).astype(int)


def match_labels(labels: Mapping[str, int], keys: Iterable[Iterable[str]], file: str | Path) -> list[int]:
    """The label of each case by its identifiers (accession number, study UID, patient …), -1 if the table has none.

    Raises UserError if no id of the table is in the source, or two identifiers of one case have different labels.
    """
    found, used = [], set()
    for case in keys:
        known = {clean_id(key) for key in case} & labels.keys()
        if len({labels[key] for key in known}) > 1:
            raise UserError(
                f"{file}: a case has one label by its patient and another by its study; keep one id column"
            )
        used |= known
        found.append(labels[next(iter(known))] if known else -1)
    if labels and found and not used:
        raise UserError(f"{file}: none of its {len(labels)} ids is in the source; check label.id")
    if unknown := len(labels) - len(used):
        first = next(row for row, key in enumerate(labels, 1) if key not in used)
        log.warning(
            "the label table has %d ids that no case of the source has (the first is its id number %d)", unknown, first
        )
    return found


def clean_id(value) -> str:
    """An identifier as text; `123.0`, as spreadsheets write it, becomes 123."""
    text = str(value).strip()
    return text[:-2] if text.endswith(".0") and text[:-2].lstrip("-").isdigit() else text


def file_stem(path: Path) -> str:
    """Name of a file without `.nii.gz` or any other ending."""
    return path.name.removesuffix(".gz").rpartition(".")[0] or path.name


def path_tails(path: Path) -> list[str]:
    """A path relative to each folder above it: `/a/b/c.png` -> `a/b/c.png`, `b/c.png`, `c.png`."""
    parts = [part for part in path.parts if part != path.anchor]
    return ["/".join(parts[i:]) for i in range(len(parts))]


def expect_one_split(names: Iterable[str], splits: Iterable[str], table: str | Path, what: str) -> None:
    """Raises UserError for a name in two splits; empty names and splits do not count."""
    pairs = pd.DataFrame({"name": list(names), "split": list(splits)}, dtype=str)
    pairs = pairs[(pairs != "").all(axis=1)].drop_duplicates()
    twice = pairs[pairs["name"].duplicated(keep=False)]
    if len(twice):
        where = " and ".join(sorted(twice.loc[twice["name"] == min(twice["name"]), "split"]))
        raise UserError(
            f"{table}: {twice['name'].nunique()} {what} in two splits (the first in {where}); give each one split"
        )


def _labels_by_value(values: pd.Series, file: str | Path, positive, negative) -> pd.Series:
    column, values = values.name, values.map(_plain)
    yes = _plain_set(positive)
    found = sorted(set(values) - UNKNOWN)
    others = [value for value in found if value not in yes]
    shown = ", ".join(found[:SHOWN]) + (" …" if len(found) > SHOWN else "")
    if len(others) == len(found) and not set(found) <= NEGATIVE:
        raise UserError(f"{file}: {column} never is {', '.join(sorted(yes))}, it is {shown}; set label.positive")
    if negative is None and len(others) > 1:
        raise UserError(f"{file}: {column} is {shown}; name the negative values in label.negative")
    no = set(others) if negative is None else _plain_set(negative)
    if both := yes & no:
        raise UserError(f"{file}: {', '.join(sorted(both))} is in label.positive and in label.negative; keep one")
    return values.map(lambda value: 1 if value in yes else 0 if value in no else -1).astype(int)


def _plain_set(values) -> set[str]:
    return {_plain(value) for value in ([values] if isinstance(values, str | int | float | bool) else values)}


def _plain(value) -> str:
    return clean_id(value).lower()
