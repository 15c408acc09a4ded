"""What is to be made: every CT, X-ray and label of a source brought together into one task a case, nothing guessed."""

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
from dataset.preparation.deidentify import Pseudonyms, age_years
from dataset.preparation.labels import clean_id, match_labels, read_csv
from dataset.preparation.pairing import Pairing, pair
from dataset.preparation.patient_linkage import one_name_each
from dataset.preparation.radiographs import Radiograph, find_radiographs
from dataset.preparation.series_ranking import Candidate, Rule, rank
from dataset.sources.folder_scan import discover

log = logging.getLogger(__name__)


@dataclass
class Task:
    """One case to be made. All that identifies the patient stays in `series` and `xray`.

    Attributes:
        id, patient: pseudonyms.
        xray: its radiograph, None for a DRR; `view` is PA, AP or "" where a table does not assign one.
        hours: from the X-ray to the CT, NaN if unknown.
        flags: what to look at, without identifiers.
    """

    id: str
    patient: str
    series: CtSeries
    xray: Radiograph | None = None
    view: str = ""
    hours: float = float("nan")
    age: int = -1
    sex: str = ""
    label: int = -1
    split: str = ""
    flags: list[str] = field(default_factory=list)


@dataclass
class Plan:
    """All tasks, all candidates of all studies, `(pseudonym, reason)` of what was left out, and X-rays without CT."""

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
    *,
    picks: str | Path | None = None,
    pairs: str | Path | None = None,
    max_hours: float = 24.0,
    labels: dict[str, int] | None = None,
    label_file: str | Path = "",
    splits: dict[str, str] | None = None,
    unpaired: str = "drr",
) -> Plan:
    """Choose a series of each study, pair, label.

    Args:
        picks: a table with the column `series`: a SeriesInstanceUID or the id that `candidates.csv` gives it.
        pairs, max_hours: as `dataset.preparation.pairing.pair` takes them.
        labels: identifier -> label; an identifier is that of a series, study, patient or an accession number.
        splits: identifier -> train, val, test or "": the CTs that belong to the set; others are left out.
        unpaired: what becomes of a CT without an X-ray: `drr` keeps it, `skip` leaves it out.

    Raises:
        UserError: for a pick, pair or label table that fits nothing in the source, or another `unpaired`.
    """
    if unpaired not in ("drr", "skip"):
        raise UserError(f"unpaired={unpaired}: choose drr or skip")
    ids = {one.key: pseudonyms.id("ct", one.key) for one in series}
    wanted = _read_picks(picks, series, ids)
    studies: dict[str, list[CtSeries]] = defaultdict(list)
    for one in series:
        studies[one.identity.study_uid or one.key].append(one)
    ranked = {study: rank(stacks, rules, wanted) for study, stacks in sorted(studies.items())}
    chosen = [one for stacks in ranked.values() for one in stacks if one.chosen]
    strangers = [] if splits is None else [one for one in chosen if not splits.keys() & set(_names(one.series))]
    chosen = [one for one in chosen if not any(one is other for other in strangers)]
    plan = Plan([], [_listed(c, study, ids, pseudonyms) for study, cs in ranked.items() for c in cs], [])
    for study, stacks in ranked.items():
        if not any(one.chosen for one in stacks):
            plan.skipped.append((pseudonyms.id("study", study), stacks[0].reason))
    plan.skipped += [(ids[one.series.key], "not in the table of from_csv") for one in strangers]

    cts = [one.series for one in chosen]
    pairing = pair(cts, radiographs, pairs, max_hours)
    paired = {**_beside(cts, radiographs, set(pairing.pairs.values())), **pairing.pairs}
    plan.skipped += [
        (pseudonyms.id("patient", problem.patient) if problem.patient else "", f"X-ray: {problem.reason}")
        for problem in pairing.listed
        if problem.ct is None
    ]
    alone = {problem.ct: problem.reason for problem in pairing.listed if problem.ct is not None}
    plan.unused = len(radiographs) - len(set(paired.values()))
    people = _people(cts, radiographs, pairing, paired)
    found = match_labels(labels, [_names(one) for one in cts], label_file) if labels else [-1] * len(cts)
    for i, (candidate, label) in enumerate(zip(chosen, found, strict=True)):
        one = candidate.series
        if i not in paired and unpaired == "skip":
            plan.skipped.append((ids[one.key], f"no X-ray: {alone[i]}" if i in alone else "no X-ray"))
            continue
        identity = one.identity
        age = age_years(identity.age, identity.study_date, identity.birth_date)
        hours = pairing.hours.get(i)
        film = radiographs[paired[i]] if i in paired else None
        flags = list(candidate.flags)
        if not identity.patient:
            flags.append("no Patient ID: the study stands for the patient")
        if people[i] != _name(one):
            flags.append("its X-rays belong to a patient of other CTs: one patient with them")
        if film is None and i in alone:
            flags.append(f"no X-ray: {alone[i]}")
        if film is not None and not film.view and not pairing.views.get(i):
            flags.append("the X-ray does not state its view")
        task = Task(
            id=ids[one.key],
            patient=pseudonyms.id("patient", people[i]),
            series=one,
            xray=film,
            view=pairing.views.get(i, ""),
            hours=float("nan") if hours is None else round(hours, 2),
            age=-1 if age is None else age,
            sex=identity.sex if identity.sex in ("M", "F", "O") else "",
            label=label,
            split=next((splits[name] for name in _names(one) if name in splits), "") if splits else "",
            flags=flags,
        )
        plan.tasks.append(task)
        pseudonyms.record(linkage_row(task))
    _check_splits(plan.tasks)
    return plan


def _name(one: CtSeries) -> str:
    """What stands for the patient of a CT."""
    return one.identity.patient or one.identity.study_uid or one.key


def _people(
    cts: Sequence[CtSeries], radiographs: Sequence[Radiograph], pairing: Pairing, paired: dict[int, int]
) -> list[str]:
    """The name of each CT's person: one for two pseudonyms whose X-rays are of one patient, so that none is split."""
    names = [_name(one) for one in cts]
    links = [(names[i], film) for i, film in pairing.linked.items()]
    films = {i: clean_id(radiographs[j].patient) for i, j in paired.items()}
    links += [(names[i], film) for i, film in films.items() if film]
    people = one_name_each(names, links)
    if doubles := len(set(names)) - len(set(people)):
        log.warning("%d patients of the CTs count as another one, who has the same X-ray patient", doubles)
    return people


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
    """NIfTI volumes with the patient and the X-ray that `dataset.sources.folder_scan` gives them."""
    if not any(path.lower().endswith(NIFTI_ENDINGS) for files in folders_of(source) for path in files):
        return []
    found = []
    for row in discover(source, dicom=False, follow_links=True).to_dict("records"):
        beside = source / row["xray"] if row["xray"] else None
        found.append(CtSeries([source / row["ct"]], CtIdentity(row["patient"], series_uid=row["ct"]), xray=beside))
    return found


def _read_picks(picks: str | Path | None, series: Sequence[CtSeries], ids: dict[str, str]) -> set[str]:
    if picks is None:
        return set()
    known = {name: one for one in series for name in (one.key, one.identity.series_uid, ids[one.key])}
    wanted = set()
    for number, value in enumerate(read_csv(picks, ["series"])["series"].str.strip(), start=2):
        if value and value not in known:
            raise UserError(f"{picks}: row {number} names no series of the source; copy it from candidates.csv")
        if value and known[value].dropped:
            raise UserError(f"{picks}: row {number} names a series that is no volume ({known[value].dropped})")
        wanted |= {known[value].key if value in ids.values() else value} if value else set()
    return wanted


def _beside(cts: Sequence[CtSeries], radiographs: Sequence[Radiograph], taken: set[int]) -> dict[int, int]:
    """X-rays that lie beside a NIfTI file under its name."""
    places = {one.path.resolve(): j for j, one in enumerate(radiographs) if j not in taken}
    found = {i: places.get(one.xray.resolve()) for i, one in enumerate(cts) if one.xray is not None}
    return {i: j for i, j in found.items() if j is not None}


def _names(one: CtSeries) -> tuple[str, ...]:
    """What a label table may call a case."""
    identity = one.identity
    names = [one.key, identity.series_uid, identity.study_uid, identity.accession, identity.patient]
    if one.is_nifti:
        name = one.files[0].name
        names += [name, name.removesuffix(".gz").removesuffix(".nii")]
    return tuple(dict.fromkeys(name for name in names if name))


def _listed(candidate: Candidate, study: str, ids: dict[str, str], pseudonyms: Pseudonyms) -> dict:
    """A row of candidates.csv: no description, agent or UID, which may identify."""
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
