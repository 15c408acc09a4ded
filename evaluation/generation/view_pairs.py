"""X-ray files of a folder as patients: a frontal alone, or a frontal and a lateral.

The view is that of the DICOM header (View Position, view code, Patient Orientation), else that of the name:
`anna_pa.png` and `anna_lat.png` are a pair, also `PA_anna.png`, `anna_pa_1.png`, and `anna.png` with a lateral. DICOM
files of one study belong together, others by the rest of the name. A lateral is read with its front at the left: a
DICOM or NIfTI header turns it so, a PNG or JPEG has to face left.
"""

import logging
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from common.errors import UserError
from dataset.io.dicom_headers import HEADER_ERRORS, read_dicom
from dataset.io.file_kind import kind_of
from dataset.io.xray_dicom import view_of

log = logging.getLogger(__name__)

LATERAL, OTHER = "lateral", "other"
WORDS, AFTER_NAME = "pa|ap|frontal|lat|lateral", "(?<=[ _.-])(?:ll|rl)"  # at the start LL and RL may be initials
VIEW_LAST = re.compile(
    rf"(?:(?P<patient>.+)[ _.-])?(?P<view>{WORDS}|{AFTER_NAME})(?:[ _.-]?(?P<number>\d+))?", re.IGNORECASE
)
VIEW_FIRST = re.compile(rf"(?P<view>{WORDS})[ _.-](?P<patient>.+)", re.IGNORECASE)
# what a lateral and its frontal have in common, the surest first
COMMON = (("study", "study"), ("named", "named"), ("named", "whole"))


class _File(NamedTuple):
    path: Path
    view: str  # frontal, lateral, other, or "" if unknown
    study: str | None  # Study Instance UID
    named: str | None  # the patient in a name with a view
    whole: str | None  # a name without a view
    by_letters: bool = False  # a lateral only by LL or RL in its name


def frontal_views(files: Sequence[Path]) -> list[Path]:
    """The files without the laterals and other views, which warnings name; UserError if none is left."""
    read, why = _frontals_and_laterals(files), ", as the checkpoint takes one view"
    return [one.path for one in _without(LATERAL, read, "a lateral", "laterals", why)]


def pair_views(files: Sequence[Path]) -> list[Path | tuple[Path, Path]]:
    """The files in their order, each lateral joined to the frontal of its patient as `(frontal, lateral)`.

    Files of unknown view stay alone, unless they are the only file of the study or the name of a lateral; other views
    (oblique, decubitus, lordotic) are left out with a warning. Raises UserError for a lateral without a frontal, for
    other views alone, and for several frontals beside a lateral or several laterals of a patient, since the names do
    not tell which belong together.
    """
    read = _frontals_and_laterals(files)
    pairs: dict[Path, tuple[Path, Path]] = {}
    for of_lateral, of_frontal in COMMON:
        paired = {path for pair in pairs.values() for path in pair}
        patients = defaultdict(lambda: ([], []))
        for one in read:
            lateral = one.view == LATERAL
            patient = getattr(one, of_lateral if lateral else of_frontal)
            if patient is not None and one.path not in paired:
                patients[patient][lateral].append(one.path)
        for frontals, laterals in patients.values():
            if not frontals or not laterals:
                continue
            if len(frontals) > 1 or len(laterals) > 1:
                raise UserError(
                    f"{laterals[0]}: {len(frontals)} frontal and {len(laterals)} lateral X-rays of one patient; keep "
                    "one of each"
                )
            pairs[frontals[0]] = (frontals[0], laterals[0])
    paired = {lateral for _, lateral in pairs.values()}
    for one in read:
        if one.view == LATERAL and one.path not in paired:
            differ = one.study and any(other.study for other in read if other.view != LATERAL)
            studies = " (the Study Instance UIDs differ)" if differ else ""
            raise UserError(
                f"{one.path}: a lateral without a frontal X-ray of the same patient{studies}; name the two "
                "<patient>_pa and <patient>_lat, or remove it"
            )
    return [pairs.get(one.path, one.path) for one in read if one.view != LATERAL]


def count_line(patients: Sequence[Path | tuple[Path, Path]]) -> str:
    """How many of the patients of `pair_views` have a lateral."""
    pairs = sum(isinstance(files, tuple) for files in patients)
    return f"pairs of a frontal and a lateral: {pairs}; frontals alone: {len(patients) - pairs}"


def view_in_name(path: Path) -> str:
    """`frontal` or `lateral` by the name of a file, such as `anna_pa.png`; "" for a name without a view."""
    named = _match(path)
    return "" if named is None else "frontal" if named["view"].lower() in ("pa", "ap", "frontal") else LATERAL


def _frontals_and_laterals(files: Sequence[Path]) -> list[_File]:
    """The files but those of other views, which a warning names; UserError if all are of other views."""
    read = _without_initials([_described(path) for path in files])
    kinds = "oblique, decubitus or lordotic"
    return _without(OTHER, read, f"an {kinds} view", f"{kinds} X-rays")


def _without(view: str, read: list[_File], one: str, several: str, why: str = "") -> list[_File]:
    """The files but those of a view, which a warning names; UserError if all have it."""
    left_out = [file.path for file in read if file.view == view]
    if left_out and len(left_out) == len(read):
        raise UserError(f"{left_out[0]}: {one}, as all X-rays here; give a frontal chest X-ray")
    if left_out:
        names = ", ".join(path.name for path in left_out)
        log.warning("%d %s are left out (%s)%s", len(left_out), several, names[:300], why)
    return [file for file in read if file.view != view]


def _without_initials(read: list[_File]) -> list[_File]:
    """LL or RL after a name counts as a view only beside a frontal of that name; else it may be initials."""
    frontals = {one.named if one.named is not None else one.whole for one in read if one.view in ("", "frontal")}
    return [
        one._replace(view="", named=None, whole=_stem(one.path).lower())
        if one.by_letters and one.named not in frontals
        else one
        for one in read
    ]


def _described(path: Path) -> _File:
    view, study, named = view_in_name(path), None, None
    if match := _match(path):
        parts = match.groupdict()
        named = "_".join(filter(None, (parts["patient"], parts.get("number")))).lower()
    whole = None if match else _stem(path).lower()
    letters = match is not None and match["view"].lower() in ("ll", "rl")
    if kind_of(path) == "dicom":
        try:
            header = read_dicom(path, stop_before_pixels=True)  # also without preamble
            of_header = view_of(header)
            study = str(header.get("StudyInstanceUID", "") or "") or None
            view = {"": view, LATERAL: LATERAL, OTHER: OTHER}.get(of_header, "frontal")
            letters = letters and not of_header
        except (*HEADER_ERRORS, UserError):  # the reader of the image names what is wrong with it
            pass
    return _File(path, view, study, named, whole, letters)


def _match(path: Path) -> re.Match | None:
    return VIEW_LAST.fullmatch(_stem(path)) or VIEW_FIRST.fullmatch(_stem(path))


def _stem(path: Path) -> str:
    """The name without its endings, also `.nii.gz`."""
    return path.name[:-7] if path.name.lower().endswith(".nii.gz") else path.stem
