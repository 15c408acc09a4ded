"""X-ray files of a folder as patients: a frontal alone, or a frontal and a lateral.

The view is that of the DICOM header (View Position, view code, Patient Orientation), else that of the name:
`anna_pa.png` and `anna_lat.png` are a pair. DICOM files belong together by their study, others by the rest of the
name.
"""

import logging
import re
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import NamedTuple

from common.errors import UserError
from dataset.io.dicom_headers import HEADER_ERRORS, read_dicom
from dataset.io.file_kind import kind_of
from dataset.io.xray_dicom import view_of

log = logging.getLogger(__name__)

LATERAL = "lateral"
VIEW = re.compile(r"(?:(?P<patient>.+)[ _.-])?(?P<view>pa|ap|frontal|lat|lateral)", re.IGNORECASE)


class _File(NamedTuple):
    path: Path
    patient: Hashable  # files with equal ones are of one patient; None for a file of its own
    view: str  # frontal, lateral, or "" if unknown


def frontal_views(files: Sequence[Path]) -> list[Path]:
    """The files without the laterals, which a warning names; UserError if there are laterals alone."""
    read = [_described(path) for path in files]
    laterals = [one.path for one in read if one.view == LATERAL]
    if laterals and len(laterals) == len(read):
        raise UserError(
            f"{laterals[0]}: a lateral, as all X-rays here, for a checkpoint of one view; give the frontal"
        )
    if laterals:
        names = ", ".join(path.name for path in laterals)
        log.warning("the checkpoint takes one view: %d laterals are left out (%s)", len(laterals), names[:300])
    return [one.path for one in read if one.view != LATERAL]


def pair_views(files: Sequence[Path]) -> list[Path | tuple[Path, Path]]:
    """The files in their order, each lateral joined to the frontal of its patient as `(frontal, lateral)`.

    Files whose view is unknown stay alone. Raises UserError for a lateral without a frontal, and for several frontals
    beside a lateral or several laterals of a patient, since the names do not tell which belong together.
    """
    read = [_described(path) for path in files]
    laterals: dict[Hashable, list[Path]] = {}
    for one in read:
        if one.view == LATERAL:
            laterals.setdefault(one.patient, []).append(one.path)
    pairs = {}
    for patient, own in laterals.items():
        frontals = [one.path for one in read if one.patient == patient and one.view != LATERAL]
        if not frontals:
            raise UserError(
                f"{own[0]}: a lateral without a frontal X-ray of the same patient; name the two <patient>_pa and "
                "<patient>_lat, or remove it"
            )
        if len(frontals) > 1 or len(own) > 1:
            raise UserError(
                f"{own[0]}: {len(frontals)} frontal and {len(own)} lateral X-rays of one patient; keep one of each"
            )
        pairs[frontals[0]] = (frontals[0], own[0])
    return [pairs.get(one.path, one.path) for one in read if one.view != LATERAL]


def _described(path: Path) -> _File:
    named = VIEW.fullmatch(_stem(path))
    view, patient = "", None
    if named:
        view = LATERAL if named["view"].lower().startswith("lat") else "frontal"
        patient = ("name", (named["patient"] or "").lower())
    if kind_of(path) != "dicom":
        return _File(path, patient, view)
    try:
        header = read_dicom(path, stop_before_pixels=True)  # also without preamble
        of_header = view_of(header)
        study = str(header.get("StudyInstanceUID", "") or "")
    except (*HEADER_ERRORS, UserError):  # the reader of the image names what is wrong with it
        return _File(path, patient, view)
    view = {"": view, LATERAL: LATERAL}.get(of_header, "frontal")
    return _File(path, ("study", study) if study else patient, view)


def _stem(path: Path) -> str:
    """The name without its endings, also `.nii.gz`."""
    return path.name.split(".")[0] if path.name.lower().endswith(".nii.gz") else path.stem
