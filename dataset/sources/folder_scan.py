"""Scans a folder for CT volumes: files and DICOM series, their patients, and the X-rays beside them."""

import glob
import logging
from collections import Counter
from pathlib import Path, PurePosixPath

import pandas as pd

from common.errors import UserError
from common.file_limits import expect_links_inside
from dataset.io.dicom_series import CtSeries, find_ct_series, folders_of, patient_ids, warn_closed
from dataset.io.file_kind import kind_of
from dataset.io.paths import volume_name, without_ending
from dataset.io.volume_files import is_volume_file
from dataset.manifest.separated import join
from dataset.manifest.table import DRR, FILM, make_rows
from dataset.sources.layouts import MOST_NAMES, crowded_ids, is_mask, one_name_each, places_of, unique_ids
from dataset.sources.published import with_published_splits

XRAY_ENDINGS = (".png", ".jpg", ".jpeg", ".dcm")

log = logging.getLogger(__name__)


def discover(root: str | Path, dicom: bool = True, follow_links: bool = False) -> pd.DataFrame:
    """A manifest for a folder without one: one row per CT, labels unknown, splits by folders or empty.

    An X-ray beside a CT with the same name belongs to it. Each CT is a patient, except that a first-level folder with
    several CTs is one (`dataset.sources.layouts`), and so are DICOM series of one Patient ID if there are several IDs,
    unless the ID is a placeholder or stands in more than `MOST_NAMES` folders. `dicom` includes DICOM series.

    UserError without a CT, for a DICOM series in two folders, a patient in the folders of two splits, and a link out
    of the folder unless `follow_links`.
    """
    root = Path(root)
    if not follow_links:
        expect_links_inside(root)
    volumes: list[tuple[PurePosixPath, str, CtSeries]] = []  # path relative to the root, key of the series
    closed: list[str] = []
    folder_of: dict[tuple[str, ...], PurePosixPath] = {}  # of each DICOM series
    for files in folders_of(root, closed=closed):
        volumes += [(_below(file, root), "", CtSeries([Path(file)])) for file in files if is_volume_file(file)]
        if dicom and any(kind_of(file) == "dicom" for file in files):
            found = find_ct_series(Path(files[0]).parent, recursive=False)
            folder = _below(Path(files[0]).parent, root)
            _expect_new(found, folder, folder_of, root)
            volumes += [(folder, key, one) for key, one in _candidates(found, folder).items()]
    if dicom:  # otherwise the caller has warned
        warn_closed(closed)
    masks = [path for path, key, _ in volumes if not key and is_mask(path)]
    volumes = sorted((one for one in volumes if one[0] not in masks), key=lambda one: one[:2])
    if masks:
        log.warning("%s: %d masks are left out, such as %s", root, len(masks), masks[0])
    if not volumes:
        raise UserError(f"{root}: no CT in it, neither a file nor a DICOM series; put CT volumes there")
    paths, keys, series = zip(*volumes, strict=True)
    cts = [f"{path}#{key}" if key else str(path) for path, key in zip(paths, keys, strict=True)]
    ids, patient_of = _ids(cts, paths), patient_ids(series)
    places = places_of(paths, patient_of)
    # Several series in one folder are one patient, even if it is the only folder.
    folders = [
        place.patient or (("", str(path)) if key else ()) for place, path, key in zip(places, paths, keys, strict=True)
    ]
    crowded = sorted(folder for folder, count in Counter(folders).items() if folder and count > 1)
    same = Counter(name for _, name in crowded)
    labels = ["_".join(filter(None, folder)) if same[folder[1]] > 1 else folder[1] for folder in crowded]
    labels = dict(zip(crowded, unique_ids(labels, labels), strict=True))
    names = [labels.get(folder, one) for folder, one in zip(folders, ids, strict=True)]
    patients = one_name_each(names, patient_of)
    if len(set(patient_of) - {""}) > 1 and (many := crowded_ids(names, patient_of)):
        log.warning(
            "%s: %d Patient IDs of more than %d folders or files each (%s) connect none of them; write a manifest.csv "
            "if each is one patient", root, len(many), MOST_NAMES, ", ".join(map(str, sorted(many.values())))
        )  # fmt: skip
    _expect_one_split(patients, [place.split for place in places], cts, root)
    if merged := len(set(names)) - len(set(patients)):
        log.warning("%s: %d patients are merged with another one that has the same Patient ID", root, merged)
    rows = []
    for one, patient, ct, path, key, place in zip(ids, patients, cts, paths, keys, places, strict=True):
        xray = "" if key else _xray_beside(root, path)
        entry = {"id": one, "patient": patient, "ct": ct, "xray": xray, "split": place.split}
        rows.append({**entry, "xray_source": FILM if xray else DRR})
    if crowded:
        log.warning(
            "%s: %d folders with several volumes are one patient each, unless in manifest.csv", root, len(crowded)
        )
    return with_published_splits(make_rows(rows), root)


def _below(path: str | Path, root: Path) -> PurePosixPath:
    return PurePosixPath(Path(path).relative_to(root).as_posix())


def _ids(cts: list[str], paths: list[PurePosixPath]) -> list[str]:
    """Ids by the names of the CTs; by their paths where names are equal."""
    names = [volume_name(path) for path in paths]
    counts = Counter(name.lower() for name in names)
    longer = [without_ending(ct) for ct in cts]
    texts = [name if counts[name.lower()] == 1 else path for name, path in zip(names, longer, strict=True)]
    return unique_ids(texts, cts)


def _expect_new(
    found: list[CtSeries], folder: PurePosixPath, folder_of: dict[tuple[str, ...], PurePosixPath], root: Path
) -> None:
    """Adds the series of a folder to `folder_of`; UserError if another folder has slices of one, as discs of a PACS.

    The same UID of another patient or study is another series. Localisers and colour images do not count.
    """
    for one in found:
        identity = one.identity
        named = identity.series_uid != identity.study_uid  # without a UID the series has that of its study
        if named and any(not piece.other for piece in one.slices):
            other = folder_of.setdefault((identity.series_uid, identity.patient, identity.study_uid), folder)
            if other != folder:
                raise UserError(
                    f"{root}: {other} and {folder} hold slices of one DICOM series; put its slices into one folder, "
                    "or run dataset/prepare.py (list different scans under one UID in manifest.csv)"
                )


def _candidates(found: list[CtSeries], folder: PurePosixPath) -> dict[str, CtSeries]:
    """The CT series of a folder by key; "" for the only one."""
    for one in found:
        if one.dropped:
            log.info("%s: no candidate: a CT series (%s)", folder, one.dropped)
    kept = [one for one in found if not one.dropped]
    return {one.key if len(kept) > 1 else "": one for one in kept}


def _expect_one_split(patients: list[str], splits: list[str], cts: list[str], root: Path) -> None:
    """Raises UserError for a patient in the folders of two splits."""
    first: dict[str, tuple[str, str]] = {}
    for patient, split, ct in zip(patients, splits, cts, strict=True):
        other, name = first.setdefault(patient, (split, ct)) if split else ("", "")
        if other != split:
            raise UserError(
                f"{root}: {name} in {other} and {ct} in {split} are of one patient (by Patient ID or name); move one "
                "of them, or write a manifest.csv"
            )


def _xray_beside(root: Path, path: PurePosixPath) -> str:
    name, place = volume_name(path), root / path
    if place == root:
        return ""
    for other in sorted(place.parent.glob(f"{glob.escape(name)}.*")):
        if other.suffix.lower() in XRAY_ENDINGS and other.stem == name and other.is_file():
            return join([other.relative_to(root).as_posix()])
    return ""
