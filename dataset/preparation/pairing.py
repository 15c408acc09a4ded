"""Assigns an X-ray to each CT by patient and time, or by a table. Ambiguous cases stay unpaired, with a reason."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import UserError
from dataset.imaging.geometry import FRONTAL_VIEWS
from dataset.io.dicom_series import CtSeries
from dataset.manifest.read_csv import read_csv
from dataset.preparation.labels import clean_id, file_stem, path_tails
from dataset.preparation.radiographs import Radiograph

SAME_MOMENT_S = 1.0  # smallest difference of exposure times that counts
PAIR_COLUMNS = ("ct", "xray")
ONLY_LATERAL = "the only X-ray is a lateral or oblique; assign it in pairs="


@dataclass
class Pairing:
    """The pairs found; every key is the index of a CT."""

    pairs: dict[int, int] = field(default_factory=dict)  # index of its X-ray
    hours: dict[int, float] = field(default_factory=dict)  # from X-ray to CT, negative for a later X-ray, NaN: unknown
    views: dict[int, str] = field(default_factory=dict)  # view that a table assigns to its X-ray
    linked: dict[int, str] = field(default_factory=dict)  # X-ray patient that a table links to its patient
    reasons: dict[int, str] = field(default_factory=dict)  # why it is unpaired, unless its patient has no X-ray


def pair(
    cts: Sequence[CtSeries],
    radiographs: Sequence[Radiograph],
    pairs: str | Path | None = None,
    max_hours: float | None = 24.0,
) -> Pairing:
    """The nearest frontal X-ray of the same patient for each CT.

    An X-ray taken before the CT (or with it) is preferred; among those the nearest within `max_hours` is paired. A CT
    stays unpaired where two X-rays are equally near, several CTs have the same nearest X-ray, a time is missing, two
    X-rays of unknown view could be frontal and lateral, the sex differs between images, or the only X-ray is a
    lateral. The X-ray beside a NIfTI file belongs to it.

    Args:
        pairs: a CSV table with the columns `ct` and `xray`, optionally `view` (PA or AP). A cell names a patient, an
            accession number, a study or series UID, or a file by name or path. A row of two patients links two
            pseudonyms of one person, whose images are paired by time; any other row is a pair at any
            distance in time. CTs in no row are paired by Patient ID.
        max_hours: largest time between X-ray and CT. None, for data without times: the patient's only frontal X-ray.

    Raises:
        UserError: a table without these columns, or a cell that names no image, or several, in the source.
    """
    result = Pairing()
    patients = {i: clean_id(ct.identity.patient) for i, ct in enumerate(cts)}
    if pairs is not None:
        _read_pairs(pairs, cts, radiographs, result)
        patients |= result.linked
    by_path = {xray.path.resolve(): j for j, xray in enumerate(radiographs)}
    for i, ct in enumerate(cts):
        if ct.xray is not None and i not in result.pairs and ct.xray.resolve() in by_path:
            result.pairs[i] = by_path[ct.xray.resolve()]
    taken = set(result.pairs.values())
    frontals, laterals = defaultdict(list), Counter()
    for j, xray in enumerate(radiographs):
        patient = clean_id(xray.identity.patient)
        if j in taken or xray.problem or not patient:
            continue
        if xray.view in ("lateral", "other"):
            laterals[patient] += 1
        else:
            frontals[patient].append(j)
    nearest = defaultdict(list)
    for i, ct in enumerate(cts):
        if i in result.pairs or not patients[i]:
            continue
        choice, reason = _choose(ct, [(j, radiographs[j]) for j in frontals[patients[i]]], max_hours)
        if choice is not None:
            nearest[choice].append(i)
        elif reason or laterals[patients[i]]:
            result.reasons[i] = reason or ONLY_LATERAL
    for j, rivals in nearest.items():
        if len(rivals) == 1:
            result.pairs[rivals[0]] = j
        else:
            reason = f"{len(rivals)} CTs have the same nearest X-ray; assign it in pairs="
            result.reasons |= dict.fromkeys(rivals, reason)
    for i, j in result.pairs.items():
        times = cts[i].identity.time, radiographs[j].identity.time
        result.hours[i] = float("nan") if None in times else (times[0] - times[1]).total_seconds() / 3600.0
    return result


def names_of(images: Sequence[CtSeries] | Sequence[Radiograph]) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Indices of the images by patient, and by every other name that a table may use."""
    patients, names = defaultdict(list), defaultdict(list)
    for i, image in enumerate(images):
        identity, xray = image.identity, isinstance(image, Radiograph)
        if identity.patient:
            patients[clean_id(identity.patient)].append(i)
        files = [image.path] if xray else image.files
        place = files[0] if len(files) == 1 else files[0].parent
        own = {identity.accession, identity.study_uid, identity.series_uid, image.uid if xray else image.key}
        own |= {str(place), place.as_posix(), *path_tails(place)} | ({file_stem(place)} if len(files) == 1 else set())
        for name in own - {""}:
            names[clean_id(name)].append(i)
    return patients, names


def _choose(ct: CtSeries, xrays: list[tuple[int, Radiograph]], max_hours: float | None) -> tuple[int | None, str]:
    """Index of the X-ray of one CT, or None and the reason."""
    if not xrays:
        return None, ""
    sexes = {ct.identity.sex, *(xray.identity.sex for _, xray in xrays)}
    if {"M", "F"} <= sexes:
        return None, "the sex differs between images of one patient id; two persons may share it"
    if max_hours is None:
        xrays = [one for one in xrays if one[1].view] or xrays
        if len(xrays) > 1:
            return None, f"{len(xrays)} X-rays of the patient are possible; assign one in pairs="
        return xrays[0][0], ""
    if ct.identity.time is None:
        return None, "the CT has no date and time of day; assign its X-ray in pairs="
    known = [
        (j, xray, (ct.identity.time - xray.identity.time).total_seconds())
        for j, xray in xrays
        if xray.identity.time is not None
    ]
    near = [one for one in known if abs(one[2]) <= max_hours * 3600.0]
    if not near:
        if len(known) < len(xrays):
            return None, "no X-ray with date and time of day; assign one in pairs="
        closest = min(abs(one[2]) for one in known) / 3600.0
        return None, f"the nearest X-ray is {closest:.0f} hours away, more than max_hours={max_hours:g}"
    near = [one for one in near if one[1].view] or near  # an unknown view may be lateral
    near = sorted([one for one in near if one[2] >= 0] or near, key=lambda one: abs(one[2]))
    index, first, seconds = near[0]
    equal = sum(abs(one[2]) - abs(seconds) < SAME_MOMENT_S for one in near)
    if equal > 1:
        return None, f"{equal} X-rays are equally near in time; assign one in pairs="
    same = sum(one[1].identity.study_uid == first.identity.study_uid for one in near)
    if not first.view and same > 1:
        return None, f"{same} X-rays of one study have no view in their headers; assign the frontal one in pairs="
    return index, ""


def _read_pairs(path: str | Path, cts: Sequence[CtSeries], xrays: Sequence[Radiograph], result: Pairing) -> None:
    """Add the pairs, views and links of a table to `result`."""
    rows = read_csv(path)
    if absent := [name for name in PAIR_COLUMNS if name not in rows.columns]:
        raise UserError(f"{path}: no column {', '.join(absent)}; it needs the columns ct and xray")
    ct_patients, ct_names = names_of(cts)
    xray_patients, xray_names = names_of(xrays)
    all_cts, all_xrays = {**ct_patients, **ct_names}, {**xray_patients, **xray_names}
    for number, row in enumerate(rows.to_dict("records"), 2):
        ct, xray = clean_id(row["ct"]), clean_id(row["xray"])
        view = str(row.get("view", "")).strip().upper()
        if view and view not in FRONTAL_VIEWS:
            raise UserError(f"{path}: row {number} has a view that is neither PA nor AP; correct it or leave it empty")
        if not ct or not xray:
            raise UserError(f"{path}: row {number} has no {'ct' if not ct else 'xray'}; fill it in")
        if ct not in ct_names and ct in ct_patients and xray not in xray_names and xray in xray_patients:
            for i in ct_patients[ct]:
                if result.linked.setdefault(i, xray) != xray:
                    raise UserError(f"{path}: row {number} links a patient of the CTs a second time; keep one")
            continue
        i = _one(f"{path}: row {number}, ct", ct, all_cts)
        j = _one(f"{path}: row {number}, xray", xray, all_xrays)
        if result.pairs.get(i, j) != j or (i not in result.pairs and j in result.pairs.values()):
            raise UserError(f"{path}: row {number} pairs a CT or an X-ray a second time; keep one row for each")
        result.pairs[i] = j
        if view:
            result.views[i] = view


def _one(cell: str, value: str, names: dict[str, list[int]]) -> int:
    found = set(names.get(value, ()))
    if len(found) != 1:
        what = f"{len(found)} images" if found else "nothing"
        raise UserError(f"{cell} names {what} in the source; give the patient, accession number, UID or file of one")
    return found.pop()
