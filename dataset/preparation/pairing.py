"""Which X-ray belongs to which CT: by patient and time, or by a table. Ambiguous cases are listed, not paired."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from common.errors import UserError
from dataset.imaging.geometry import FRONTAL_VIEWS
from dataset.io.dicom_series import CtSeries
from dataset.preparation.labels import clean_id, file_stem, read_csv
from dataset.preparation.radiographs import Radiograph

SAME_MOMENT_S = 1.0  # smallest difference of exposure times that counts
PAIR_COLUMNS = ("ct", "xray")
ONLY_LATERAL = "the only X-ray is a lateral; assign it in pairs="


class Problem(NamedTuple):
    """An unpaired CT or X-ray and the reason, which holds no identifier.

    `patient` is the raw identifier, for the linkage table only; `ct` is the index of the CT, None for an X-ray.
    """

    patient: str
    reason: str
    ct: int | None = None


@dataclass
class Pairing:
    """The pairs found.

    Attributes:
        pairs: index of a CT -> index of its X-ray.
        hours: index of a CT -> hours from its X-ray to it, negative where the X-ray came later, None if unknown.
        views: index of a CT -> view that a table assigns to its X-ray.
        linked: index of a CT -> X-ray patient that a table links to its patient.
        listed: what stays unpaired, and why.
    """

    pairs: dict[int, int] = field(default_factory=dict)
    hours: dict[int, float | None] = field(default_factory=dict)
    views: dict[int, str] = field(default_factory=dict)
    linked: dict[int, str] = field(default_factory=dict)
    listed: list[Problem] = field(default_factory=list)


def pair(
    cts: Sequence[CtSeries],
    radiographs: Sequence[Radiograph],
    pairs: str | Path | None = None,
    max_hours: float | None = 24.0,
) -> Pairing:
    """The nearest frontal X-ray of the same patient for each CT.

    An X-ray taken before the CT (or with it) is preferred; among those the nearest within `max_hours` is paired. A
    patient is listed instead where two X-rays are equally near, several CTs have the same nearest X-ray, a time is
    missing, two X-rays of unknown view could be frontal and lateral, the sex differs between images, or the only
    X-ray is a lateral. A CT whose patient has no X-ray is not listed. The X-ray beside a NIfTI file belongs to it.

    Args:
        pairs: a CSV table with the columns `ct` and `xray`, optionally `view` (PA or AP). A cell names a patient, an
            accession number, a study or series UID, or a file by name or path. A row of two patients links two
            pseudonyms of one person, whose images are paired by time; any other row is a pair itself, whatever the
            hours. CTs in no row are paired by Patient ID.
        max_hours: largest time between X-ray and CT. None, for data without times: the patient's only frontal X-ray.

    Raises:
        UserError: a table without these columns, or a cell that names nothing, or several things, in the source.
    """
    result = Pairing()
    linked = {i: clean_id(ct.identity.patient) for i, ct in enumerate(cts)}
    if pairs is not None:
        result.linked = _read_pairs(Path(pairs), cts, radiographs, result)
        linked |= result.linked
    by_path = {xray.path.resolve(): j for j, xray in enumerate(radiographs)}
    for i, ct in enumerate(cts):
        beside = getattr(ct, "xray", None)
        if beside is not None and i not in result.pairs and beside.resolve() in by_path:
            result.pairs[i] = by_path[beside.resolve()]
    taken = set(result.pairs.values())
    frontals, laterals = defaultdict(list), Counter()
    for j, xray in enumerate(radiographs):
        if j in taken:
            continue
        if xray.problem:
            result.listed.append(Problem(xray.patient, xray.problem))
        elif xray.patient and xray.view == "lateral":
            laterals[clean_id(xray.patient)] += 1
        elif xray.patient:
            frontals[clean_id(xray.patient)].append(j)
    claims = defaultdict(list)
    for i, ct in enumerate(cts):
        if i in result.pairs or not linked.get(i):
            continue
        choice, reason = _choose(ct, [(j, radiographs[j]) for j in frontals[linked[i]]], max_hours)
        if choice is not None:
            claims[choice].append(i)
        elif reason or laterals[linked[i]]:
            result.listed.append(Problem(ct.identity.patient, reason or ONLY_LATERAL, i))
    for j, claimants in claims.items():
        if len(claimants) == 1:
            result.pairs[claimants[0]] = j
        else:
            reason = f"{len(claimants)} CTs claim one X-ray; say in pairs= which it belongs to"
            result.listed += [Problem(cts[i].identity.patient, reason, i) for i in claimants]
    result.hours = {i: _hours_between(radiographs[j].time, cts[i].identity.time) for i, j in result.pairs.items()}
    return result


def _hours_between(xray: datetime | None, ct: datetime | None) -> float | None:
    """Hours from the X-ray to the CT; None if a time is unknown."""
    return None if xray is None or ct is None else (ct - xray).total_seconds() / 3600.0


def _choose(ct: CtSeries, xrays: list[tuple[int, Radiograph]], max_hours: float | None) -> tuple[int | None, str]:
    """Index of the X-ray of one CT, or None and the reason."""
    if not xrays:
        return None, ""
    sexes = {sex for sex in (ct.identity.sex, *(xray.sex for _, xray in xrays)) if sex in ("M", "F")}
    if len(sexes) > 1:
        return None, "the sex differs between images of one patient id; two persons may share it"
    if max_hours is None:
        xrays = [one for one in xrays if one[1].view] or xrays
        if len(xrays) > 1:
            return None, f"{len(xrays)} X-rays of the patient could be it; say which in pairs="
        return xrays[0][0], ""
    if ct.identity.time is None:
        return None, "the CT has no date and time of day; name its X-ray in pairs="
    known = [(j, xray, (ct.identity.time - xray.time).total_seconds()) for j, xray in xrays if xray.time is not None]
    near = [one for one in known if abs(one[2]) <= max_hours * 3600.0]
    if not near:
        if len(known) < len(xrays):
            return None, "no X-ray with date and time of day; name it in pairs="
        closest = min(abs(one[2]) for one in known) / 3600.0
        return None, f"the nearest X-ray is {closest:.0f} hours away, more than max_hours={max_hours:g}"
    if any(xray.view for _, xray, _ in near):  # an unknown view may be lateral
        near = [one for one in near if one[1].view]
    before = [one for one in near if one[2] >= 0]
    near = sorted(before or near, key=lambda one: abs(one[2]))
    rivals = [one for one in near if abs(one[2]) - abs(near[0][2]) < SAME_MOMENT_S]
    if len(rivals) > 1:
        return None, f"{len(rivals)} X-rays are equally near in time; say which in pairs="
    same = [one for one in near if one[1].study_uid == near[0][1].study_uid]
    if not near[0][1].view and len(same) > 1:
        return None, f"{len(same)} X-rays of one study do not state their view; say which is frontal in pairs="
    return near[0][0], ""


def _read_pairs(path: Path, cts: Sequence[CtSeries], xrays: Sequence[Radiograph], result: Pairing) -> dict[int, str]:
    """Add the pairs of a table to `result`; returns the X-ray patient of each CT that the table links by patient."""
    rows = read_csv(path)
    if absent := [name for name in PAIR_COLUMNS if name not in rows.columns]:
        raise UserError(f"{path}: no column {', '.join(absent)}; it needs the columns ct and xray")
    ct_patients, ct_names = _names_of(cts)
    xray_patients, xray_names = _names_of(xrays)
    linked: dict[int, str] = {}
    for number, row in enumerate(rows.to_dict("records"), 2):
        ct, xray = clean_id(row["ct"]), clean_id(row["xray"])
        view = str(row.get("view", "")).strip().upper()
        if view and view not in FRONTAL_VIEWS:
            raise UserError(f"{path}: row {number} has a view that is neither PA nor AP; correct it or leave it empty")
        if not ct or not xray:
            raise UserError(f"{path}: row {number} has no {'ct' if not ct else 'xray'}; fill it in")
        if ct not in ct_names and ct in ct_patients and xray not in xray_names and xray in xray_patients:
            for i in ct_patients[ct]:
                if linked.setdefault(i, xray) != xray:
                    raise UserError(f"{path}: row {number} links a patient of the CTs a second time; keep one")
            continue
        i = _one(path, number, "ct", ct, {**ct_patients, **ct_names})
        j = _one(path, number, "xray", xray, {**xray_patients, **xray_names})
        if result.pairs.get(i, j) != j or (i not in result.pairs and j in result.pairs.values()):
            raise UserError(f"{path}: row {number} pairs a CT or an X-ray a second time; keep one row for each")
        result.pairs[i] = j
        if view:
            result.views[i] = view
    return linked


def _names_of(images: Sequence) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Indices of the images by patient, and by every other name that a table may use."""
    patients, names = defaultdict(list), defaultdict(list)
    for i, image in enumerate(images):
        identity = getattr(image, "identity", image)
        if identity.patient:
            patients[clean_id(identity.patient)].append(i)
        paths = [Path(image.path)] if hasattr(image, "path") else [Path(p) for p in getattr(image, "files", ())]
        own = {str(getattr(identity, name, "")) for name in ("accession", "study_uid", "series_uid", "uid")}
        own.add(str(getattr(image, "key", "")))
        if len(paths) == 1:
            own |= {paths[0].name, file_stem(paths[0]), str(paths[0]), paths[0].as_posix(), *_tails(paths[0])}
        elif paths:
            own |= {str(paths[0].parent), paths[0].parent.name, *_tails(paths[0].parent)}
        for name in own - {""}:
            names[clean_id(name)].append(i)
    return patients, names


def _tails(path: Path) -> list[str]:
    """`a/b/c.png` -> `b/c.png`, `a/b/c.png`: a path relative to any folder above."""
    parts = [part for part in path.parts if part != path.anchor]
    return ["/".join(parts[i:]) for i in range(len(parts) - 1)]


def _one(path: Path, number: int, column: str, value: str, names: dict[str, list[int]]) -> int:
    found = set(names.get(value, []))
    if len(found) == 1:
        return found.pop()
    what = f"{len(found)} images" if found else "nothing"
    raise UserError(
        f"{path}: row {number}, {column} names {what} in the source; give a patient, accession number, UID or file "
        f"name that {'only one has' if found else 'is there'}"
    )
