"""Runs a plan: makes missing cases in parallel processes, writes manifest, log and summary."""

import contextlib
import json
import logging
import multiprocessing
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pydicom
from rich.progress import track

from common.errors import UserError
from common.files import atomic_path, remove_stale
from common.folder_lock import hold
from dataset.manifest.patient_linkage import merge_patients
from dataset.manifest.table import DRR, DRR_CONTRAST, FILM, SPLITS, make_rows, write_manifest
from dataset.preparation.case_writer import Settings, finished, make_case, state_of
from dataset.preparation.deidentify import Pseudonyms, age_years
from dataset.preparation.plan import Plan, Task, linkage_row

BYTES_PER_PROCESS = 3 * 2**30  # peak measured for a scan of 512 x 512 x 399 voxels
MEASURED_COLUMNS = ["voi", "lung_ml", "vessel_hu", "size", "spacing"]  # of summary.csv

log = logging.getLogger(__name__)


@dataclass
class Outcome:
    """The result of a preparation."""

    rows: list[dict[str, Any]]  # of summary.csv, with the `flags` of each finished case
    kept: int  # number of cases that an earlier run finished
    unused: int = 0  # number of X-rays of no CT


def open_folders(source: str | Path, output: str | Path, linkage: str | Path | None) -> tuple[Path, Pseudonyms]:
    """The locked output folder, and the pseudonyms with key and table in the folder beside it.

    Raises UserError for an output within the source (the next run would read it), without write access, or in use.
    """
    output, source = Path(output).expanduser(), Path(source).expanduser()
    if source.resolve() in (output.resolve(), *output.resolve().parents):
        raise UserError(f"output={output}: is within source={source}; choose a folder beside it")
    hold(output, "output")
    return output, Pseudonyms(linkage or output.with_name(f"{output.name}-linkage"), output)


@contextlib.contextmanager
def processes(workers: int | None) -> Iterator[Executor | None]:
    """A pool of `workers` processes; None, for this process alone, if `workers` is 0 or 1.

    By default there is one process per core, limited by `BYTES_PER_PROCESS`.
    """
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if "SC_PHYS_PAGES" in os.sysconf_names:
            memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
            workers = max(1, min(workers, memory // BYTES_PER_PROCESS))
    if workers <= 1:
        yield None
        return
    # Spawned, not forked: a fork loses the threads of torch and SimpleITK.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_start_process)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def prepare(
    plan: Plan,
    settings: Settings,
    pseudonyms: Pseudonyms,
    pool: Executor | None,
    keep_age: bool,
    keep_sex: bool,
) -> Outcome:
    """Make the missing cases of a plan; write candidates.csv, manifest.csv, summary.csv and prepare.log.

    The record of a case is written last and marks it as finished, so an interrupted run continues where it stopped.

    Args:
        keep_age, keep_sex: write them into the manifest.

    Raises:
        UserError: if no case could be made, or the system ended a process.
    """
    output = settings.output
    _write_table(pd.DataFrame(plan.candidates), output / "candidates.csv")
    pseudonyms.write()  # first: after an interruption each case has its row in the linkage table
    states = {task.id: pseudonyms.id("state", state_of(task, settings)) for task in plan.tasks}
    found = {task.id: finished(task, settings, states[task.id]) for task in plan.tasks}
    records = {case: record for case, record in found.items() if record is not None}
    kept = len(records)
    cases = settings.record("any").parent
    cases.mkdir(parents=True, exist_ok=True)
    for folder in (settings.ct("any").parent, settings.xray("any").parent, cases):
        remove_stale(folder)
    names = {path.stem for path in cases.glob("*.json") if not path.name.startswith(".")}
    if old := names - states.keys():
        log.warning("%s: %d cases of earlier runs are no longer part of it; their files remain", output, len(old))
    logged = _logged(output / "prepare.log")
    with open(output / "prepare.log", "a", encoding="utf-8") as file:

        def note(case: str, status: str, reason: str) -> None:
            line = f"{case or '-'} {status} {reason}".rstrip()
            if line not in logged:
                file.write(f"{datetime.now().isoformat(sep=' ', timespec='seconds')} {line}\n")
                file.flush()

        skipped = [(case, pseudonyms.scrub(reason)) for case, reason in plan.skipped]
        for case, reason in skipped:
            note(case, "skipped", reason)
        todo = [task for task in plan.tasks if task.id not in records]
        for task, record in _make(todo, settings, states, pool):
            records[task.id] = record
            if "failed" in record:
                record["failed"] = pseudonyms.scrub(record["failed"])
                note(task.id, "failed", record["failed"])
                continue
            record["flags"] = [pseudonyms.scrub(flag) for flag in record["flags"]]
            with atomic_path(settings.record(task.id)) as temporary:  # the last file of a case: it is complete
                temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")
            note(task.id, "done", "; ".join([*task.flags, *record["flags"]]))
    done = [task for task in plan.tasks if "failed" not in records[task.id]]
    same = defaultdict(list)  # cases with the same voxels in their source
    for task in done:
        same[records[task.id]["source_hash"]].append(task.id)
    copies = {case: [one for one in group if one != case] for group in same.values() for case in group}
    _merge_copies(done, copies, pseudonyms)
    rows = [_row(task, records[task.id], copies.get(task.id, [])) for task in plan.tasks]
    rows += [{"id": case, "status": "skipped", "reason": reason} for case, reason in skipped]
    _write_table(pd.DataFrame(rows, columns=["id", "status", "reason", *MEASURED_COLUMNS]), output / "summary.csv")
    if not done:
        reasons = "; ".join(sorted({str(row["reason"]) for row in rows})[:3])
        raise UserError(f"{output}: no case could be prepared ({reasons}); {output / 'summary.csv'} lists all")
    manifest = make_rows(_entry(task, records[task.id], settings, keep_age, keep_sex) for task in done)
    write_manifest(manifest, output / "manifest.csv")
    return Outcome(rows, kept, plan.unused)


def _make(
    todo: Sequence[Task], settings: Settings, states: dict[str, str], pool: Executor | None
) -> Iterator[tuple[Task, dict]]:
    """Each task with its record, in the order in which they finish."""
    progress = partial(track, description="Preparing cases", total=len(todo), disable=not todo)
    if pool is None:
        for task in progress(todo):
            yield task, make_case(task, settings, states[task.id])
        return
    futures = {pool.submit(make_case, task, settings, states[task.id]): task for task in todo}
    try:
        for future in progress(as_completed(futures)):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "the system ended a process, most likely for lack of memory; start again with fewer workers= "
            "(finished cases are kept)"
        ) from error


def silence_readers() -> None:
    """Stop pydicom's warnings about header values: they quote the value, which may identify a patient."""
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    logging.getLogger("pydicom").setLevel(logging.ERROR)


def _start_process() -> None:
    """Set up a process of the pool: one thread, no warnings of readers."""
    import SimpleITK as sitk
    import torch

    torch.set_num_threads(1)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    silence_readers()


def _merge_copies(done: Sequence[Task], copies: dict[str, list[str]], pseudonyms: Pseudonyms) -> None:
    """Assign one patient to all copies of a scan, and one split to a patient, so that no split separates them.

    The folders of the source may have the copies in several splits. The whole patient is in test before val before
    train, so that no case leaves the test split, with a flag for each case that changes.
    """
    links = [(task.patient, min([task.id, *copies[task.id]])) for task in done]
    patients = merge_patients([task.patient for task in done], links)
    changed = [(task, patient) for task, patient in zip(done, patients, strict=True) if patient != task.patient]
    for task, patient in changed:
        task.patient = patient
        pseudonyms.record(linkage_row(task))
    if changed:
        pseudonyms.write()
    given = defaultdict(set)  # splits of each patient
    for task in done:
        given[task.patient] |= {task.split} - {""}
    for task in done:
        if len(given[task.patient]) > 1:
            split = max(given[task.patient], key=SPLITS.index)
            if task.split not in ("", split):
                task.flags.append(f"split {split} instead of {task.split}, where its patient has a copy of a scan")
            task.split = split


def _logged(path: Path) -> set[str]:
    """Lines of a log, without the time, about skipped and failed cases; those before a case was done do not count."""
    lines: dict[str, set[str]] = defaultdict(set)
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        words = line.split(" ", 4)
        if len(words) >= 4 and words[3] == "done":
            lines.pop(words[2], None)
        elif len(words) >= 4:
            lines[words[2]].add(line.split(" ", 2)[2])
    return set().union(*lines.values())


def _row(task: Task, record: dict, copies: list[str]) -> dict[str, Any]:
    """The row of summary.csv of a case."""
    if "failed" in record:
        return {"id": task.id, "status": "failed", "reason": record["failed"]}
    flags = [*task.flags, *record["flags"], *(f"same voxels as {other}: one patient with it" for other in copies)]
    measured = {name: record[name] for name in MEASURED_COLUMNS}
    return {"id": task.id, "status": "done", "reason": "; ".join(flags), "flags": flags, **measured}


def _entry(task: Task, record: dict, settings: Settings, keep_age: bool, keep_sex: bool) -> dict[str, Any]:
    """The row of the manifest of a case."""
    one, xray = task.series.identity, record["xray"]
    entry = {
        "id": task.id,
        "patient": task.patient,
        "ct": settings.ct(task.id).relative_to(settings.output).as_posix(),
        "xray": settings.xray(task.id).relative_to(settings.output).as_posix() if xray else "",
        "view": record["view"],
        "xray_source": FILM if xray else DRR_CONTRAST if record["contrast"] else DRR,
        "label": task.label,
        "split": task.split,
        "spacing": record["spacing"],
        "source_hash": record["source_hash"],
    }
    if xray:
        entry["hours_xray_to_ct"] = task.hours
    if keep_age:
        age = age_years(one.age, one.study_date, one.birth_date)
        entry["age"] = -1 if age is None else age
    if keep_sex:
        entry["sex"] = one.sex if one.sex in ("M", "F", "O") else ""
    return entry


def _write_table(rows: pd.DataFrame, path: Path) -> None:
    with atomic_path(path) as temporary:
        rows.to_csv(temporary, index=False)
