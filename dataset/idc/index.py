"""Pairs of a chest CT and a radiograph of one patient, chosen from the index of the Imaging Data Commons.

The index is the table of the package `idc-index-data`, one row per DICOM series.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from common.errors import UserError

COLLECTIONS = {  # collection -> DOI and what is particular about its dates
    "covid_19_ny_sbu": "",
    "covid_19_ar": "",
    "lidc_idri": "its dates are removed, so the days between CT and radiograph are unknown",
}
KINDS = {  # pattern of the description of the CT's study; any chest by body part for `ct`
    "ct": "",
    "chest": r"CHEST|THORAX|LUNG",
    "ctpa": r"PULM\w*\W*ANG|CTPA|\bPE\b",
}
RADIOGRAPHS = ("CR", "DX")
COLUMNS = ["collection_id", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "StudyDate",
           "StudyDescription", "SeriesDescription", "BodyPartExamined", "instanceCount", "series_size_MB",
           "license_short_name", "source_DOI", "series_aws_url"]  # fmt: skip
LEAST_IMAGES = 30  # of a CT series; fewer are localisers
HOW = "pip install idc-index-data pyarrow (80 MB), or give index=<its idc_index.parquet>"


@dataclass(frozen=True)
class Selection:
    """Series of CT and radiographs of patients who have both."""

    series: pd.DataFrame  # `COLUMNS`, with `days` from the nearest image of the other kind
    note: str = ""  # what to know about the collection

    @property
    def patients(self) -> int:
        return self.series["PatientID"].nunique()

    def summary(self) -> str:
        """Counts, size, licence and DOI as one line."""
        table = self.series
        films = table["Modality"].isin(RADIOGRAPHS)
        terms = ", ".join(sorted({*table["license_short_name"], *("doi " + doi for doi in table["source_DOI"])}))
        size = table["series_size_MB"].sum() / 1000
        counts = f"{(~films).sum()} CT series, {films.sum()} radiographs"
        return f"{self.patients} patients, {counts}, {size:.1f} GB; {terms}" + (f"; {self.note}" if self.note else "")


def read_index(path: str | Path | None, collection: str) -> pd.DataFrame:
    """The rows of one collection; UserError without the index, and for a file of another kind."""
    if collection not in COLLECTIONS:
        raise UserError(f"collection={collection}: choose {', '.join(COLLECTIONS)}")
    if path is None:
        found = find_spec("idc_index_data")
        if found is None:
            raise UserError(f"the index of the Imaging Data Commons is missing; {HOW}")
        path = Path(found.origin).parent / "idc_index.parquet"
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"index={path}: no such file; {HOW}")
    try:
        return pd.read_parquet(path, columns=COLUMNS, filters=[("collection_id", "==", collection)])
    except ImportError as error:
        raise UserError(f"index={path}: its format needs pyarrow; pip install pyarrow") from error
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"index={path}: not the index of idc-index-data ({str(error)[:120]}); {HOW}") from error


def select_pairs(index: pd.DataFrame, kind: str, max_days: float | None) -> Selection:
    """CT series of a kind, and chest radiographs of the same patient at most `max_days` apart.

    None for `max_days` takes every radiograph of the patient. UserError for an unknown kind, and if nobody has both.
    """
    if kind not in KINDS:
        raise UserError(f"kind={kind}: choose {', '.join(KINDS)}")
    text = (
        index[["StudyDescription", "SeriesDescription", "BodyPartExamined"]].fillna("").apply(lambda c: c.str.upper())
    )
    part, modality = text["BodyPartExamined"], index["Modality"]
    whole = (modality == "CT") & (index["instanceCount"] >= LEAST_IMAGES) & ~part.str.startswith("ABDOMEN")
    cts = index[whole & text["StudyDescription"].str.contains(KINDS[kind], regex=True)]
    films = index[modality.isin(RADIOGRAPHS) & (part.str.contains("CHEST") | (part == ""))]
    pairs = cts.merge(films, on="PatientID", suffixes=("", "_film"))
    dates = (pd.to_datetime(pairs[name], errors="coerce") for name in ("StudyDate", "StudyDate_film"))
    pairs["days"] = next(dates).sub(next(dates)).dt.days.abs()
    if max_days is not None:
        pairs = pairs[pairs["days"] <= max_days]
    if pairs.empty:
        raise UserError(f"kind={kind} max_days={max_days}: no patient has both; give more days, or another kind")
    days = pd.concat([pairs.groupby(name)["days"].min() for name in ("SeriesInstanceUID", "SeriesInstanceUID_film")])
    chosen = index[index["SeriesInstanceUID"].isin(days.index)]
    series = chosen.assign(days=chosen["SeriesInstanceUID"].map(days)).sort_values(["PatientID", "Modality"])
    return Selection(series.reset_index(drop=True), COLLECTIONS.get(str(index["collection_id"].iloc[0]), ""))
