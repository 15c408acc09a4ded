"""The cases to make: CTs, X-rays and labels of a source combined into one task per case."""

import logging
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.file_limits import expect_links_inside
from dataset.io.dicom_headers import CtIdentity
from dataset.io.dicom_series import CtSeries, find_ct_series, folders_of
from dataset.io.nifti import NIFTI_ENDINGS
from dataset.preparation.deidentify import Pseudonyms
from dataset.preparation.labels import clean_id, file_stem, match_labels, read_csv
from dataset.preparation.pairing import Pairing, pair
from dataset.preparation.patient_linkage import merge_patients
from dataset.preparation.radiographs import Radiograph, find_radiographs
from dataset.preparation.series_ranking import Candidate, Rule, rank
from dataset.preparation.user_tables import UserTables
from dataset.sources.folder_scan import discover

log = logging.getLogger(__name__)


@dataclass
class Task:
    """One case to make. Only `series` and `xray` identify the patient.

    Attributes:
        id, patient: pseudonyms.
        xray: its radiograph, None for a DRR.
        view: PA or AP where a table assigns it, otherwise "".
        hours: from the X-ray to the CT, NaN if unknown.
        flags: remarks for the user, without identifiers.
    """

    id: str
    patient: str
    series: CtSeries
    xray: Radiograph | None = None
    view: str = ""
    hours: float = float("nan")
    label: int = -1
    split: str = ""
    flags: list[str] = field(default_factory=list)


@dataclass
class Plan:
    """All tasks, rows of candidates.csv, `(pseudonym, reason)` of what is skipped, and the number of unused X-rays."""

    tasks: list[Task]
    candidates: list[dict]
    skipped: list[tuple[str, str]]
    unused: int = 0


def find_all(
    source: str | Path, exclude: Sequence[Path] = (), pool: Executor | None = None, follow_links: bool = False
) -> tuple[list[CtSeries], list[Radiograph]]:
    """Every CT stack, NIfTI volume and radiograph under a folder.

    Raises:
        UserError: if there is no such folder, or no CT in it.
    """
    source = Path(source).expanduser()
    if not source.is_dir():
        raise UserError(f"source={source}: no such folder; give the one that holds DICOM or NIfTI files, at any depth")
    if not follow_links:
        expect_links_inside(source, "copy the files there, or set follow_links=true if you know where it leads")
    series = find_ct_series(source, exclude=exclude, pool=pool) + _find_nifti(source)
    if not series:
        raise UserError(f"source={source}: no CT in it, neither DICOM nor NIfTI; give the folder of the exports")
    return series, find_radiographs(source, exclude=exclude, pool=pool)


def make_plan(
    series: Sequence[CtSeries],
    radiographs: Sequence[Radiograph],
    pseudonyms: Pseudonyms,
    rules: Sequence[tuple[str, Rule]],
    tables: UserTables | None = None,
    max_hours: float | None = 24.0,
    unpaired: str = "drr",
) -> Plan:
    """Choose one series per study, pair it with an X-ray and label it.

    Args:
        rules: ordered ranking criteria (`dataset.preparation.series_ranking.pick_rules`).
        tables: what the user's tables say.
        max_hours: as `dataset.preparation.pairing.pair` takes it.
        unpaired: a CT without an X-ray is kept (`drr`) or left out (`skip`).

    Raises:
        UserError: for a table of series, pairs or labels that matches nothing in the source; another `unpaired`.
    """
    if unpaired not in ("drr", "skip"):
        raise UserError(f"unpaired={unpaired}: choose drr or skip")
    tables = tables or UserTables()
    ids = {one.key: pseudonyms.id("ct", one.key) for one in series}
    picked = _read_picks(tables.series, series, ids)
    studies: dict[str, list[CtSeries]] = defaultdict(list)
    for one in series:
        studies[one.identity.study_uid or one.key].append(one)
    ranked = {study: rank(stacks, rules, picked) for study, stacks in sorted(studies.items())}
    plan = Plan([], [_candidate_row(c, study, ids, pseudonyms) for study, cs in ranked.items() for c in cs], [])
    for study, stacks in ranked.items():
        if not any(one.chosen for one in stacks):
            plan.skipped.append((pseudonyms.id("study", study), stacks[0].reason))
    chosen = []
    for candidate in (one for stacks in ranked.values() for one in stacks if one.chosen):
        if tables.splits is None or tables.splits.keys() & set(_names(candidate.series)):
            chosen.append(candidate)
        else:
            plan.skipped.append((ids[candidate.series.key], "not in the table of from_csv"))

    cts = [one.series for one in chosen]
    pairing = pair(cts, radiographs, tables.pairs, max_hours)
    plan.skipped += [
        (pseudonyms.id("patient", problem.patient) if problem.patient else "", f"X-ray: {problem.reason}")
        for problem in pairing.listed
        if problem.ct is None
    ]
    reasons = {problem.ct: f"no X-ray: {problem.reason}" for problem in pairing.listed if problem.ct is not None}
    plan.unused = len(radiographs) - len(set(pairing.pairs.values()))
    patients = _patients(cts, radiographs, pairing)
    labels = [-1] * len(cts)
    if tables.labels:
        labels = match_labels(tables.labels, [_names(one) for one in cts], tables.label_file)
    for i, (candidate, label) in enumerate(zip(chosen, labels, strict=True)):
        one = candidate.series
        xray = radiographs[pairing.pairs[i]] if i in pairing.pairs else None
        if xray is None and unpaired == "skip":
            plan.skipped.append((ids[one.key], reasons.get(i, "no X-ray")))
            continue
        flags = list(candidate.flags)
        if not one.identity.patient:
            flags.append("no Patient ID: the study stands for the patient")
        if patients[i] != _patient_name(one):
            flags.append("its X-rays belong to a patient of other CTs: one patient with them")
        if xray is None and i in reasons:
            flags.append(reasons[i])
        if xray is not None and not xray.view and not pairing.views.get(i):
            flags.append("the X-ray does not state its view")
        hours = pairing.hours.get(i)
        task = Task(
            id=ids[one.key],
            patient=pseudonyms.id("patient", patients[i]),
            series=one,
            xray=xray,
            view=pairing.views.get(i, ""),
            hours=float("nan") if hours is None else round(hours, 2),
            label=label,
            split=next((tables.splits[n] for n in _names(one) if n in tables.splits), "") if tables.splits else "",
            flags=flags,
        )
        plan.tasks.append(task)
        pseudonyms.record(linkage_row(task))
    _check_splits(plan.tasks)
    return plan


def _patient_name(one: CtSeries) -> str:
    """Identifier of the patient of a CT; without a Patient ID that of the study."""
    return one.identity.patient or one.identity.study_uid or one.key


def _patients(cts: Sequence[CtSeries], radiographs: Sequence[Radiograph], pairing: Pairing) -> list[str]:
    """The patient of each CT. Pseudonyms whose X-rays are of one patient become one, so no split separates them."""
    names = [_patient_name(one) for one in cts]
    links = [(names[i], patient) for i, patient in pairing.linked.items()]
    xrays = {i: clean_id(radiographs[j].patient) for i, j in pairing.pairs.items()}
    patients = merge_patients(names, links + [(names[i], patient) for i, patient in xrays.items() if patient])
    if doubles := len(set(names)) - len(set(patients)):
        log.warning("%d patients of the CTs count as another one, who has the same X-ray patient", doubles)
    return patients


def _check_splits(tasks: Sequence[Task]) -> None:
    splits: dict[str, set[str]] = defaultdict(set)
    for task in tasks:
        splits[task.patient] |= {task.split} - {""}
    if torn := [(patient, found) for patient, found in splits.items() if len(found) > 1]:
        patient, found = torn[0]
        raise UserError(
            f"from_csv: {len(torn)} patients in two splits (patient {patient} in {' and '.join(sorted(found))}), by "
            "Patient ID or the patient of their X-rays; give each patient one split"
        )


def _find_nifti(source: Path) -> list[CtSeries]:
    """NIfTI volumes with the patient and the X-ray that `dataset.sources.folder_scan` finds for them."""
    if not any(path.lower().endswith(NIFTI_ENDINGS) for files in folders_of(source) for path in files):
        return []
    found = []
    for row in discover(source, dicom=False, follow_links=True).to_dict("records"):
        beside = source / row["xray"] if row["xray"] else None
        found.append(CtSeries([source / row["ct"]], CtIdentity(row["patient"], series_uid=row["ct"]), xray=beside))
    return found


def _read_picks(table: str | Path | None, series: Sequence[CtSeries], ids: dict[str, str]) -> set[str]:
    """Keys or UIDs of the series in the user's table."""
    if table is None:
        return set()
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
    if one.is_nifti:
        names += [one.files[0].name, file_stem(one.files[0])]
    return tuple(dict.fromkeys(name for name in names if name))


def _candidate_row(candidate: Candidate, study: str, ids: dict[str, str], pseudonyms: Pseudonyms) -> dict:
    """A row of candidates.csv; without description, agent and UID, which may identify the patient."""
    one = candidate.series
    return {
        "study": pseudonyms.id("study", study),
        "series": ids[one.key],
        "place": candidate.place or "",
        "chosen": "yes" if candidate.chosen else "no",
        "reason": candidate.reason,
        "flags": "; ".join(candidate.flags),
        "slices": len(one.slices) or "",
        "thickness_mm": "" if one.acquisition.thickness is None else f"{one.acquisition.thickness:g}",
        "coverage_mm": "" if one.coverage is None or not np.isfinite(one.coverage) else f"{one.coverage:.0f}",
    }


def linkage_row(task: Task) -> dict:
    """The row of the linkage table that leads back from a task."""
    one = task.series
    return {
        "id": task.id,
        "patient_id": task.patient,
        "patient": one.identity.patient,
        "study": one.identity.study_uid,
        "series": one.key,
        "accession": one.identity.accession,
        "ct": one.files[0] if one.is_nifti else one.files[0].parent,
        "xray": task.xray.path if task.xray else "",
        "xray_accession": task.xray.accession if task.xray else "",
    }
