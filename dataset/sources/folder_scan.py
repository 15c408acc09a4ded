"""Scans a folder for CT volumes: NIfTI files and DICOM series, their patients, and the X-rays beside them."""

import glob
import logging
import os
import re
from collections import Counter
from pathlib import Path

import pandas as pd

from common.errors import UserError
from common.file_limits import expect_links_inside
from dataset.io.dicom_headers import DICOM_ENDINGS
from dataset.io.dicom_series import find_ct_series, folders_of
from dataset.io.nifti import NIFTI_ENDINGS, volume_name
from dataset.manifest.table import DRR, FILM, make_rows

XRAY_ENDINGS = (".png", ".jpg", ".jpeg", ".dcm")

log = logging.getLogger(__name__)


def discover(root: str | Path, dicom: bool = True, follow_links: bool = False) -> pd.DataFrame:
    """A manifest for a folder without one: one row per CT, labels unknown, splits empty.

    An X-ray beside a CT with the same name belongs to it. Each CT is a patient, except that a first-level folder with
    several CTs is one patient. `dicom` includes DICOM series. UserError without a CT, and for a link out of the folder
    unless `follow_links`.
    """
    root = Path(root)
    if not follow_links:
        expect_links_inside(root)
    volumes = []
    for files in folders_of(root):
        volumes += [Path(file).relative_to(root).as_posix() for file in files if file.lower().endswith(NIFTI_ENDINGS)]
        if dicom and any(Path(file).suffix.lower() in DICOM_ENDINGS for file in files):
            volumes += _series(Path(files[0]).parent, root)
    volumes.sort()
    if not volumes:
        raise UserError(f"{root}: no .nii, .nii.gz or DICOM series of a CT in it; put CT volumes there")
    parts = [Path(ct.partition("#")[0]).parts for ct in volumes]
    shared = os.path.commonprefix([p[:-1] for p in parts])  # folders above all volumes name no patient
    tops = [p[len(shared)] if len(p) - 1 > len(shared) else "" for p in parts]
    # Several series in one folder are one patient, even if it is the only folder.
    tops = [top or (ct.partition("#")[0] if "#" in ct else "") for top, ct in zip(tops, volumes, strict=True)]
    crowded = {top for top, count in Counter(tops).items() if top and count > 1}
    names = [_plain(volume_name(ct)) for ct in volumes]
    twice = {name for name, count in Counter(name.lower() for name in names).items() if count > 1}
    rows = []
    for ct, name, top in zip(volumes, names, tops, strict=True):
        unique = name if name.lower() not in twice else _plain(ct.removesuffix(".gz").removesuffix(".nii"))
        xray = _xray_beside(root, ct)
        patient, source = _plain(top) if top in crowded else unique, FILM if xray else DRR
        rows.append({"id": unique, "patient": patient, "ct": ct, "xray": xray, "xray_source": source})
    if crowded:
        log.warning(
            "%s: %d folders with several volumes are one patient each, unless in manifest.csv", root, len(crowded)
        )
    return make_rows(rows)


def _series(folder: Path, root: Path) -> list[str]:
    """The path relative to `root`, or `folder#key` for each series of a folder with several."""
    relative = folder.relative_to(root).as_posix()
    found = find_ct_series(folder, recursive=False)
    for one in found:
        if one.dropped:
            log.info("%s: no candidate: a CT series (%s)", folder, one.dropped)
    names = [one.key for one in found if not one.dropped]
    return [relative] if len(names) == 1 else [f"{relative}#{name}" for name in names]


def _xray_beside(root: Path, ct: str) -> str:
    place, series = root / ct.partition("#")[0], "#" in ct
    if series or place == root:
        return ""
    for other in sorted(place.parent.glob(f"{glob.escape(volume_name(ct))}.*")):
        if other.suffix.lower() in XRAY_ENDINGS and other.stem == volume_name(ct) and other.is_file():
            return other.relative_to(root).as_posix()
    return ""


def _plain(name: str) -> str:
    """The name in letters, digits, dots, dashes and underscores, as ids are parts of file names that Hydra parses."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("_.") or "case"
