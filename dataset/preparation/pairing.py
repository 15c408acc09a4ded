"""Which X-ray belongs to which CT: by patient and time, or by a table. What is uncertain is listed, never guessed."""

import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Protocol

import pandas as pd

from common.errors import UserError
from dataset.imaging.geometry import FRONTAL_VIEWS
from dataset.io.dicom_headers import CtIdentity
from dataset.preparation.labels import clean_id, read_csv
from dataset.preparation.radiographs import Radiograph

SAME_MOMENT_S = 1.0  # exposures closer than this cannot be told apart by their clocks
PAIR_COLUMNS = ("ct", "xray")
ONLY_LATERAL = "the only X-ray is a lateral; assign it in pairs="

log = logging.getLogger(__name__)


class CtCandidate(Protocol):
    """The attribute of a CT that pairing reads; `dataset.io.dicom_series.CtSeries` has it."""

    identity: CtIdentity


class Problem(NamedTuple):
    """A CT or X-ray that stays alone, and why; `patient` is the raw identifier, for the linkage table only.

    `ct` is the index of the CT that stays alone, None where an X-ray does.
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
        linked: index of a CT -> patient of the X-rays that a table says is the same person.
        listed: what could not be decided; the reasons hold no identifier.
    """

    pairs: dict[int, int] = field(default_factory=dict)
    hours: dict[int, float | None] = field(default_factory=dict)
    views: dict[int, str] = field(default_factory=dict)
    linked: dict[int, str] = field(default_factory=dict)
    listed: list[Problem] = field(default_factory=list)


def pair(
    cts: Sequence[CtCandidate],
    radiographs: Sequence[Radiograph],
    pairs: str | Path | pd.DataFrame | None = None,
    max_hours: float | None = 24.0,
) -> Pairing:
    """The frontal X-ray nearest to each CT of the same patient.

    An X-ray taken before the CT (or with it) is preferred to any taken after; among those the nearest within
    `max_hours` is it. Nothing is paired, and the patient is listed, where two X-rays are equally near, where several
    CTs claim one X-ray, where a time is missing, where two X-rays of unknown view could be frontal and lateral, or
    where sex says that two persons share one id; nor is a lateral, which is listed where it is all there is. A CT
    without any X-ray of its patient is no problem and not listed.

    Args:
        pairs: a CSV table, or that of `dataset.preparation.published_tables.pairs_of`, with the columns `ct` and
        `xray` (and
            `view` where it assigns PA or AP). A cell names a patient, an accession number, a study or series UID, or
            a file by name or path. Rows that name two patients say that they are one person under two pseudonyms:
            then time decides as above; any other row is the pair itself, whatever the hours. Without a row Patient ID
            decides.
        max_hours: of an X-ray from its CT. None where times were removed: then a patient's only frontal X-ray is it.

    Raises:
        UserError: a table without these columns, or a cell that names nothing, or several things, in the source.
    """
    result = Pairing()
    linked = {i: clean_id(ct.identity.patient) for i, ct in enumerate(cts)}
    if pairs is not None:
        result.linked = _by_table(pairs, cts, radiographs, result)
        linked |= result.linked
    place = {Path(xray.path): j for j, xray in enumerate(radiographs)}
    for i, ct in enumerate(cts):
        beside = getattr(ct, "xray", None)  # a film under the name of a NIfTI file is its film
        if beside is not None and i not in result.pairs and Path(beside) in place:
            result.pairs[i] = place[Path(beside)]
    taken = set(result.pairs.values())
    for i, xray in enumerate(radiographs):
        if xray.problem and i not in taken:
            result.listed.append(Problem(xray.patient, xray.problem))
    of_patient, laterals = defaultdict(list), Counter()
    for i, xray in enumerate(radiographs):
        if xray.patient and not xray.problem and i not in taken:
            if xray.view == "lateral":
                laterals[clean_id(xray.patient)] += 1
            else:
                of_patient[clean_id(xray.patient)].append(i)
    chosen: dict[int, int] = {}
    for i, ct in enumerate(cts):
        if i in result.pairs or not linked.get(i):
            continue
        choice, reason = _choose(ct, [(j, radiographs[j]) for j in of_patient[linked[i]]], max_hours)
        if choice is not None:
            chosen[i] = choice
        elif reason or laterals[linked[i]]:
            result.listed.append(Problem(ct.identity.patient, reason or ONLY_LATERAL, i))
    claims = defaultdict(list)
    for i, j in chosen.items():
        claims[j].append(i)
    for j, claimants in claims.items():
        if len(claimants) == 1:
            result.pairs[claimants[0]] = j
        else:
            reason = f"{len(claimants)} CTs claim one X-ray; say in pairs= which it belongs to"
            result.listed += [Problem(cts[i].identity.patient, reason, i) for i in claimants]
    result.hours = {i: hours_between(radiographs[j].time, cts[i].identity.time) for i, j in result.pairs.items()}
    return result


def hours_between(xray: datetime | None, ct: datetime | None) -> float | None:
    """Hours from the X-ray to the CT; None if a time is unknown."""
    return None if xray is None or ct is None else (ct - xray).total_seconds() / 3600.0


def _choose(ct: CtCandidate, films: list[tuple[int, Radiograph]], max_hours: float | None) -> tuple[int | None, str]:
    """The X-ray of one CT, or why there is none."""
    if not films:
        return None, ""
    sexes = {sex for sex in (ct.identity.sex, *(film.sex for _, film in films)) if sex in ("M", "F")}
    if len(sexes) > 1:
        return None, "the sex differs between images of one patient id; two persons may share it"
    if max_hours is None:
        films = [one for one in films if one[1].view] or films
        if len(films) > 1:
            return None, f"{len(films)} X-rays of the patient could be it; say which in pairs="
        return films[0][0], ""
    if ct.identity.time is None:
        return None, "the CT has no date and time of day; name its X-ray in pairs="
    known = [(j, film, (ct.identity.time - film.time).total_seconds()) for j, film in films if film.time is not None]
    near = [one for one in known if abs(one[2]) <= max_hours * 3600.0]
    if not near:
        if len(known) < len(films):
            return None, "no X-ray with date and time of day; name it in pairs="
        closest = min(abs(one[2]) for one in known) / 3600.0
        return None, f"the nearest X-ray is {closest:.0f} hours away, more than max_hours={max_hours:g}"
    if any(film.view for _, film, _ in near):  # a view that is stated beats one that may be a lateral
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


def _by_table(table, cts: Sequence[CtCandidate], films: Sequence[Radiograph], result: Pairing) -> dict[int, str]:
    """Fills in the pairs that a table names; gives the patient of the X-rays for CTs that it links by patient."""
    strict = not isinstance(table, pd.DataFrame)  # a data set's own table may be of more than lies on this disk
    rows, path = (read_csv(table), Path(table)) if strict else (table, Path("from_csv"))
    if absent := [name for name in PAIR_COLUMNS if name not in rows.columns]:
        raise UserError(f"{path}: no column {', '.join(absent)}; it needs the columns ct and xray")
    ct_patients, ct_names = _names_of(cts)
    film_patients, film_names = _names_of(films)
    linked: dict[int, str] = {}
    for number, row in enumerate(rows.to_dict("records"), 2):
        ct, xray = clean_id(row["ct"]), clean_id(row["xray"])
        view = str(row.get("view", "")).strip().upper()
        if view and view not in FRONTAL_VIEWS:
            raise UserError(f"{path}: row {number} has a view that is neither PA nor AP; correct it or leave it empty")
        if not ct or not xray:
            raise UserError(f"{path}: row {number} has no {'ct' if not ct else 'xray'}; fill it in")
        if ct not in ct_names and ct in ct_patients and xray not in film_names and xray in film_patients:
            for i in ct_patients[ct]:
                if linked.setdefault(i, xray) != xray:
                    raise UserError(f"{path}: row {number} links a patient of the CTs a second time; keep one")
            continue
        if not strict and (ct not in ct_names or xray not in film_names):
            result.listed.append(Problem(ct, "its table names a CT or an X-ray that the source does not have"))
            continue
        i = _one(path, number, "ct", ct, {**ct_patients, **ct_names})
        j = _one(path, number, "xray", xray, {**film_patients, **film_names})
        if result.pairs.get(i, j) != j or (i not in result.pairs and j in result.pairs.values()):
            raise UserError(f"{path}: row {number} pairs a CT or an X-ray a second time; keep one row for each")
        result.pairs[i] = j
        if view:
            result.views[i] = view
    return linked


def _names_of(images: Sequence) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Patient -> images, and every other name that a table may use -> images."""
    patients, names = defaultdict(list), defaultdict(list)
    for i, image in enumerate(images):
        identity = getattr(image, "identity", image)
        if identity.patient:
            patients[clean_id(identity.patient)].append(i)
        paths = [Path(image.path)] if hasattr(image, "path") else [Path(p) for p in getattr(image, "files", ())]
        own = {str(getattr(identity, name, "")) for name in ("accession", "study_uid", "series_uid", "uid")}
        own.add(str(getattr(image, "key", "")))
        if len(paths) == 1:
            stem = paths[0].name[: -len("".join(_endings(paths[0])))] if _endings(paths[0]) else paths[0].name
            own |= {paths[0].name, stem, str(paths[0]), paths[0].as_posix(), *_tails(paths[0])}
        elif paths:
            own |= {str(paths[0].parent), paths[0].parent.name, *_tails(paths[0].parent)}
        for name in own - {""}:
            names[clean_id(name)].append(i)
    return patients, names


def _endings(path: Path) -> list[str]:
    return path.suffixes[-2:] if path.name.lower().endswith(".nii.gz") else path.suffixes[-1:]


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
