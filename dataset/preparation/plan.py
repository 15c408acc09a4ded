"""The cases to make: CTs, X-rays and labels of a source combined into one task per case."""

import logging
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import numpy as np

from common.errors import UserError
from common.file_limits import expect_links_inside
from dataset.io.dicom_headers import Identity
from dataset.io.dicom_series import CtSeries, find_ct_series, folders_of, patient_ids, warn_closed
from dataset.io.volume_files import is_volume_file, x2ct_pose
from dataset.manifest.patient_linkage import merge_patients
from dataset.manifest.read_csv import read_csv
from dataset.manifest.separated import parts
from dataset.preparation.deidentify import Pseudonyms
from dataset.preparation.labels import clean_id, expect_one_split, file_stem, match_labels
from dataset.preparation.pairing import Pairing, pair
from dataset.preparation.radiographs import Radiograph, find_radiographs
from dataset.preparation.series_ranking import Candidate, Rule, rank
from dataset.preparation.user_tables import UserTables
from dataset.sources.folder_scan import discover
from dataset.sources.layouts import is_mask, places_of

log = logging.getLogger(__name__)


@dataclass
class Task:
    """One case to make. Only `series` and `xray` identify the patient."""

    id: str  # pseudonym
    patient: str  # pseudonym
    series: CtSeries
    xray: Radiograph | None  # None: a DRR
    view: str  # PA or AP where a table assigns it, otherwise ""
    hours: float  # from the X-ray to the CT, NaN if unknown
    label: int
    split: str
    flags: list[str]  # remarks for the user


@dataclass
class Plan:
    """The cases to make, and what the user reads about the others."""

    tasks: list[Task] = field(default_factory=list)
    candidates: list[dict] = field(default_factory=list)  # rows of candidates.csv
    skipped: list[tuple[str, str]] = field(default_factory=list)  # pseudonym and reason
    unused: int = 0  # number of X-rays of no CT


def find_all(
    source: str | Path, exclude: Sequence[Path], pool: Executor | None, follow_links: bool
) -> tuple[list[CtSeries], list[Radiograph]]:
    """Every CT stack, NIfTI volume and radiograph under a folder.

    Raises:
        UserError: if there is no such folder, or no CT in it.
    """
    source = Path(source).expanduser()
    if not source.is_dir():
        raise UserError(f"source={source}: no such folder; give the one that holds the CTs, at any depth")
    if not follow_links:
        expect_links_inside(source, "copy the files there, or set follow_links=true to follow it")
    series = find_ct_series(source, exclude=exclude, pool=pool)
    if series:
        folders = [PurePosixPath(one.files[0].parent.relative_to(source).as_posix()) for one in series]
        for one, place in zip(series, places_of(folders, patient_ids(series), every_id=True), strict=True):
            one.identity = replace(one.identity, split=place.split)
    closed: list[str] = []
    files = [path for files in folders_of(source, closed=closed) for path in files]
    warn_closed(closed)
    if any(is_volume_file(path) and not is_mask(PurePosixPath(Path(path).relative_to(source))) for path in files):
        for row in discover(source, dicom=False, follow_links=True).to_dict("records"):
            xray = next((source / name for name in parts(row["xray"]) if x2ct_pose(name) is None), None)
            identity = Identity(row["patient"], series_uid=row["ct"], split=row["split"])
            series.append(CtSeries([source / row["ct"]], identity, xray=xray))
    if not series:
        raise UserError(
            f"source={source}: no CT in it, neither DICOM nor a volume file; give the folder of the exports"
        )
    return series, find_radiographs(source, exclude=exclude, pool=pool)


def make_plan(
    series: Sequence[CtSeries],
    radiographs: Sequence[Radiograph],
    pseudonyms: Pseudonyms,
    rules: Sequence[Rule],
    tables: UserTables,
    max_hours: float | None,
    unpaired: str,
) -> Plan:
    """Choose one series per study, pair it with an X-ray and label it.

    Args:
        max_hours: as `dataset.preparation.pairing.pair` takes it.
        unpaired: a CT without an X-ray is kept (`drr`) or left out (`skip`).

    Raises:
        UserError: for a table of series, pairs or labels that matches nothing in the source; another `unpaired`.
    """
    if unpaired not in ("drr", "skip"):
        raise UserError(f"unpaired={unpaired}: choose drr or skip")
    lent = set()  # series without Patient ID that get that of their study
    for one, patient in zip(series, patient_ids(series), strict=True):
        if patient != one.identity.patient:
            one.identity = replace(one.identity, patient=patient)
            lent.add(one.key)
    ids = {one.key: pseudonyms.id("ct", one.key) for one in series}
    picked = set() if tables.series is None else _read_picks(tables.series, series, ids)
    studies: dict[tuple[str, str], list[CtSeries]] = defaultdict(list)  # one UID may stand for studies of two patients
    for one in series:
        studies[one.identity.study_uid or one.key, one.identity.patient].append(one)
    plan, chosen = Plan(), []
    for (study, _), stacks in sorted(studies.items()):
        study_id, ranked = pseudonyms.id("study", study), rank(stacks, rules, picked)
        plan.candidates += [_candidate_row(candidate, study_id, ids) for candidate in ranked]
        chosen += [candidate for candidate in ranked if candidate.chosen]
        if not any(candidate.chosen for candidate in ranked):
            plan.skipped.append((study_id, ranked[0].reason))
    names = {one.key: _names(one) for one in series}
    if tables.splits is not None:
        listed = {key for key in names if not tables.splits.keys().isdisjoint(names[key])}
        absent = [candidate.series.key for candidate in chosen if candidate.series.key not in listed]
        plan.skipped += [(ids[key], "not in the table of from_csv") for key in absent]
        chosen = [candidate for candidate in chosen if candidate.series.key in listed]

    cts = [one.series for one in chosen]
    pairing = pair(cts, radiographs, tables.pairs, max_hours)
    used = set(pairing.pairs.values())
    plan.unused = len(radiographs) - len(used)
    for j, xray in enumerate(radiographs):
        if xray.problem and j not in used:
            patient = xray.identity.patient
            plan.skipped.append((pseudonyms.id("patient", patient) if patient else "", f"X-ray: {xray.problem}"))
    patients = _patients(cts, radiographs, pairing)
    labels = [-1] * len(cts)
    if tables.labels:
        labels = match_labels(tables.labels, [names[one.key] for one in cts], tables.label_file)
    for i, (candidate, one, label) in enumerate(zip(chosen, cts, labels, strict=True)):
        xray = radiographs[pairing.pairs[i]] if i in pairing.pairs else None
        reason = f"no X-ray: {pairing.reasons[i]}" if i in pairing.reasons else ""
        if xray is None and unpaired == "skip":
            plan.skipped.append((ids[one.key], reason or "no X-ray"))
            continue
        flags, view = list(candidate.flags), pairing.views.get(i, "")
        if one.key in lent:
            flags.append("no Patient ID: that of its study is used")
        if not one.identity.patient:
            flags.append("no Patient ID: the study is used as the patient")
        if patients[i] != _patient_name(one):
            flags.append("its X-rays belong to a patient of other CTs: merged into one patient")
        if reason:
            flags.append(reason)
        if xray is not None and not xray.view and not view:
            flags.append("the X-ray has no view in its header")
        split = one.identity.split
        if tables.splits is not None:
            split = next((tables.splits[n] for n in names[one.key] if n in tables.splits), "")
        patient, hours = pseudonyms.id("patient", patients[i]), round(pairing.hours.get(i, float("nan")), 2)
        plan.tasks.append(Task(ids[one.key], patient, one, xray, view, hours, label, split, flags))
        pseudonyms.record(linkage_row(plan.tasks[-1]))
    where = "from_csv" if tables.splits is not None else "folders of the source"
    by_patient = "patients, by Patient ID or by the patient of their X-rays,"
    expect_one_split([t.patient for t in plan.tasks], [t.split for t in plan.tasks], where, by_patient)
    return plan


def linkage_row(task: Task) -> dict:
    """The row of the linkage table with the source of a task."""
    one = task.series
    return {
        "id": task.id,
        "patient_id": task.patient,
        "patient": one.identity.patient,
        "study": one.identity.study_uid,
        "series": one.key,
        "accession": one.identity.accession,
        "ct": one.files[0] if one.is_file else one.files[0].parent,
        "xray": task.xray.path if task.xray else "",
        "xray_accession": task.xray.identity.accession if task.xray else "",
    }


def _patient_name(one: CtSeries) -> str:
    """Identifier of the patient of a CT; without a Patient ID that of the study."""
    return one.identity.patient or one.identity.study_uid or one.key


def _patients(cts: Sequence[CtSeries], radiographs: Sequence[Radiograph], pairing: Pairing) -> list[str]:
    """The patient of each CT. Pseudonyms whose X-rays are of one patient become one, so no split separates them."""
    names = [_patient_name(one) for one in cts]
    links = [(names[i], patient) for i, patient in pairing.linked.items()]
    links += [(names[i], clean_id(radiographs[j].identity.patient)) for i, j in pairing.pairs.items()]
    patients = merge_patients(names, [link for link in links if link[1]])
    if doubles := len(set(names)) - len(set(patients)):
        log.warning("%d patients of the CTs are merged with another one that has the same X-ray patient", doubles)
    return patients


def _read_picks(table: str, series: Sequence[CtSeries], ids: dict[str, str]) -> set[str]:
    """Keys or UIDs of the series in the user's table."""
    known = {name: one for one in series for name in (one.key, one.identity.series_uid, ids[one.key])}
    picked = set()
    for number, value in enumerate(read_csv(table, ["series"])["series"].str.strip(), start=2):
        if value and value not in known:
            raise UserError(f"{table}: row {number} names no series of the source; copy it from candidates.csv")
        if value and known[value].dropped:
            raise UserError(f"{table}: row {number} names a series that is no volume ({known[value].dropped})")
        picked |= {known[value].key if value in ids.values() else value} if value else set()
    return picked


def _names(one: CtSeries) -> tuple[str, ...]:
    """Identifiers that a label table may use for a case."""
    identity = one.identity
    names = [one.key, identity.series_uid, identity.study_uid, identity.accession, identity.patient]
    if one.is_file:
        names += [one.files[0].name, file_stem(one.files[0])]
    return tuple(dict.fromkeys(name for name in names if name))


def _candidate_row(candidate: Candidate, study: str, ids: dict[str, str]) -> dict:
    """A row of candidates.csv; without description, agent and UID, which may identify the patient."""
    one = candidate.series
    return {
        "study": study,
        "series": ids[one.key],
        "place": candidate.place or "",
        "chosen": "yes" if candidate.chosen else "no",
        "reason": candidate.reason,
        "flags": "; ".join(candidate.flags),
        "slices": len(one.slices) or "",
        "thickness_mm": "" if one.acquisition.thickness is None else f"{one.acquisition.thickness:g}",
        "coverage_mm": "" if one.coverage is None or not np.isfinite(one.coverage) else f"{one.coverage:.0f}",
    }
