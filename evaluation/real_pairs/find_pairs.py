"""Pairs of an X-ray and a CT of one patient, from the manifest of a prepared set."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from common.errors import UserError
from dataset.manifest.separated import parts
from dataset.manifest.table import FILM, SPLITS, read_manifest
from evaluation.scoring.evaluation_pictures import check_file_names

MANIFEST = "manifest.csv"


@dataclass(frozen=True)
class Pair:
    """X-ray files and the CT of one patient; `view` is that of the first X-ray, None where the table has none."""

    id: str
    patient: str
    xrays: tuple[Path, ...]
    view: str | None
    ct: str


def pair_rows(
    folder: str | Path | None,
    split: str | None = None,
    cases: int | None = None,
    patients: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Rows of `<folder>/manifest.csv` with a radiograph (`xray_source` film), in order; at most `cases`.

    `patients` chooses among them. UserError for a folder without manifest, an unknown patient, and if no row of the
    split has a radiograph.
    """
    if not folder or not Path(folder).expanduser().is_dir():
        raise UserError(
            f"pairs={folder}: no such folder; give a set of dataset/prepare.py with radiographs, or phantoms"
        )
    path = Path(folder).expanduser() / MANIFEST
    rows = of_split(read_manifest(path), split)
    rows = rows[(rows["xray_source"] == FILM) & (rows["xray"] != "")]
    if rows.empty:
        where = "" if split is None else f" in the split {split}"
        raise UserError(f"{path}: no row with a radiograph{where}; prepare X-rays with the CTs, or set pseudo=1")
    return of_patients(rows, patients, path).iloc[:cases].reset_index(drop=True)


def of_split(rows: pd.DataFrame, split: str | None) -> pd.DataFrame:
    """The rows of a split, None = all; UserError for an unknown split."""
    if split not in (None, *SPLITS):
        raise UserError(f"split={split}: choose {', '.join(SPLITS)}, or null for all")
    return rows if split is None else rows[rows["split"] == split]


def of_patients(rows: pd.DataFrame, patients: Sequence[str] | None, path: Path) -> pd.DataFrame:
    """The rows of these patients, None = all; UserError for a patient without a row in the table at `path`."""
    if patients is None:
        return rows
    wanted = [str(patient) for patient in patients]
    if missing := sorted(set(wanted) - set(rows["patient"].astype(str))):
        raise UserError(f"patients={wanted}: no {missing[0]} in {path}; give patients of this table")
    return rows[rows["patient"].astype(str).isin(wanted)]


def find_pairs(rows: pd.DataFrame, folder: str | Path, views: int = 1, fewest: int = 1) -> list[Pair]:
    """The pairs of rows; the first frontal X-ray of each, with two `views` the first lateral as well.

    A row without a lateral is a pair of the frontal alone if `fewest` is 1. UserError for a row without the X-rays
    that are needed, a missing X-ray file, and two ids of one file name.
    """
    root, found = Path(folder).expanduser(), []
    check_file_names(rows["id"])
    for row in rows.to_dict("records"):
        files = [root / name for name in parts(row["xray"])]
        names = parts(row["view"]) or [""] * len(files)
        frontal = [i for i, name in enumerate(names) if name != "lateral"]
        lateral = [i for i, name in enumerate(names) if name == "lateral"]
        chosen = [*frontal[:1], *lateral[: views - 1]]
        if not frontal or len(chosen) < fewest:
            needed = "a frontal X-ray" if fewest == 1 else "a frontal and a lateral X-ray"
            raise UserError(
                f"{root / MANIFEST}: {row['id']} has the views {row['view']}; the checkpoint takes {needed}"
            )
        for i in chosen:
            if not files[i].is_file():
                raise UserError(f"{root / MANIFEST}: {row['id']}: {files[i]}: no such file; copy it there")
        xrays = tuple(files[i] for i in chosen)
        found.append(Pair(row["id"], str(row["patient"]), xrays, names[chosen[0]] or None, str(root / row["ct"])))
    return found
