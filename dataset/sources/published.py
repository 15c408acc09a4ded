"""Published data sets whose files or tables state splits, folds or patients in a way of their own.

X2CT-GAN: `<case>/ct_xray_data.h5`, lists `train.txt` and `test.txt` of cases. RAD-ChestCT: `trn00001.npz`, `val…`,
`tst…`, patients in `CT_Scan_Metadata_Complete_35747.csv`. LUNA16: `subset0` to `subset9` are folds.
TotalSegmentator: `<image_id>/ct.nii.gz`, splits in `meta.csv`.
"""

import logging
import re
from pathlib import Path, PurePosixPath

import pandas as pd

from dataset.io.paths import X2CT_FILE, volume_name
from dataset.io.volume_files import X2CT_XRAYS
from dataset.manifest.read_csv import read_csv
from dataset.manifest.separated import join
from dataset.manifest.table import DRR
from dataset.sources.layouts import with_validation

X2CT_LISTS = {"train.txt": "train", "val.txt": "val", "test.txt": "test"}
X2CT_SOURCE = "copy them from X2CT-GAN (github.com/kylekma/X2CT, 3DGAN/data)"
LIDC_PATIENT = re.compile(r"LIDC-IDRI-\d{4}")
RAD_NAME = re.compile(r"(trn|val|tst)\d{5,}")
RAD_SPLITS = {"trn": "train", "val": "val", "tst": "test"}
RAD_TABLE, RAD_KEYS = "CT_Scan_Metadata_Complete_35747.csv", ("NoteAcc_DEID", "MRN_DEID")
LUNA_FOLD = re.compile(r"subset(\d)")
TOTAL_TABLE, TOTAL_KEYS = "meta.csv", ("image_id", "split")

log = logging.getLogger(__name__)


def with_published_splits(rows: pd.DataFrame, root: Path) -> pd.DataFrame:
    """The rows of a scanned folder with what a published data set says about its cases; others stay as they are."""
    for complete in (_x2ct, _rad_chestct, _luna16, _totalsegmentator):
        rows = complete(rows, root)
    return rows


def _x2ct(rows: pd.DataFrame, root: Path) -> pd.DataFrame:
    """X-rays of the same file, and the splits of the lists; without cases of no list and patients of two."""
    own = rows["ct"].map(lambda ct: PurePosixPath(ct).name == X2CT_FILE)
    if not own.any():
        return rows
    cases = rows["ct"].map(volume_name)
    patients = cases.map(lambda case: found[0] if (found := LIDC_PATIENT.match(case)) else case)
    both = join(f"{X2CT_FILE}#{name}" for name in X2CT_XRAYS)
    for column, values in {
        "patient": patients,
        "xray": rows["ct"].map(lambda ct: both.replace(X2CT_FILE, ct)),
        "view": "PA;lateral",
        "xray_source": DRR,
    }.items():
        rows[column] = rows[column].where(~own, values)
    folders = {root.resolve().parent, root, *(root / place for ct in rows["ct"][own] for place in Path(ct).parents)}
    lists = next(
        (found for folder in sorted(folders, key=str) if (found := _lists(folder)).keys() >= {"train", "test"}), {}
    )
    if not lists:
        log.warning("%s: no train.txt and test.txt beside the files; %s, or the splits are random", root, X2CT_SOURCE)
        return rows
    split_of = {case: split for split, names in lists.items() for case in names}
    splits = cases.map(split_of).fillna("").where(own, rows["split"])
    tested = set(patients[own & (splits == "test")])
    twice = own & (splits != "test") & patients.isin(tested)
    unlisted = own & (splits == "")
    for count, what in ((unlisted.sum(), "cases in neither list"), (twice.sum(), "training cases of test patients")):
        if count:
            log.warning("%s: %d %s are left out", root, count, what)
    rows = rows.assign(split=splits)[~(twice | unlisted)].reset_index(drop=True)
    return (
        rows if (rows["split"] == "val").any() else rows.assign(split=with_validation(rows["patient"], rows["split"]))
    )


def _lists(folder: Path) -> dict[str, list[str]]:
    """Names of cases by split, from the lists in a folder."""
    files = {split: folder / name for name, split in X2CT_LISTS.items()}
    return {split: file.read_text(encoding="utf-8").split() for split, file in files.items() if file.is_file()}


def _rad_chestct(rows: pd.DataFrame, root: Path) -> pd.DataFrame:
    names = rows["ct"].map(volume_name)
    own = rows["ct"].str.lower().str.endswith(".npz") & names.map(lambda name: RAD_NAME.fullmatch(name) is not None)
    if not own.any():
        return rows
    rows = rows.assign(split=rows["split"].where(~own, names.str[:3].map(RAD_SPLITS)))
    if (table := _table(root, RAD_TABLE, RAD_KEYS)) is None:
        log.warning("%s: no %s beside the scans, so each scan is a patient; copy it there", root, RAD_TABLE)
        return rows
    patients = names.map(dict(zip(*(table[key] for key in RAD_KEYS), strict=True)))
    return rows.assign(patient=rows["patient"].where(~own | patients.isna(), patients))


def _luna16(rows: pd.DataFrame, root: Path) -> pd.DataFrame:
    folds = [next(filter(None, map(LUNA_FOLD.fullmatch, PurePosixPath(ct).parts)), None) for ct in rows["ct"]]
    if not any(folds):
        return rows
    return rows.assign(fold=[int(found[1]) if found else -1 for found in folds])


def _totalsegmentator(rows: pd.DataFrame, root: Path) -> pd.DataFrame:
    own = rows["ct"].map(lambda ct: PurePosixPath(ct).name in ("ct.nii.gz", "ct.nii"))
    if not own.any() or (table := _table(root, TOTAL_TABLE, TOTAL_KEYS)) is None:
        return rows
    splits = dict(zip(*(table[key] for key in TOTAL_KEYS), strict=True))
    found = rows["ct"].map(lambda ct: splits.get(PurePosixPath(ct).parent.name, ""))
    return rows.assign(split=found.where(own & found.isin(["train", "val", "test"]), rows["split"]))


def _table(root: Path, name: str, columns: tuple[str, ...]) -> pd.DataFrame | None:
    """A table in the folder or in the one above it; None if there is none with these columns."""
    for file in (root / name, root.resolve().parent / name):
        if file.is_file() and set(columns) <= set((table := read_csv(file)).columns):
            return table
    return None
