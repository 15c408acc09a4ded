"""Search for CT series in a file tree, from headers only.

A stack joins the slices of a series from several folders. It excludes other series in a folder, other patients and
other acquisitions under one UID, localisers and colour images.
"""

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from dataset.io.dicom_groups import (
    SMALLEST,
    Scanned,
    heights_of,
    is_placed,
    layouts_of,
    merge_scans,
    places,
    scan_files,
    tags_of,
)
from dataset.io.dicom_headers import CtAcquisition, Identity, Slice, normal_of

REPEATED_MM = 60.0  # a shorter stack with repeated positions is bolus tracking

log = logging.getLogger(__name__)


@dataclass
class CtSeries:
    """One stack of CT slices, or one NIfTI file, with its header values. They may identify a patient."""

    files: list[Path]
    identity: Identity = Identity()
    acquisition: CtAcquisition = CtAcquisition()
    normal: tuple[float, float, float] | None = None  # unit vector of the stack (LPS), None for NIfTI
    heights: np.ndarray = field(default_factory=lambda: np.zeros(0))  # mm of each slice along the normal, sorted
    slices: list[Slice] = field(default_factory=list, repr=False)
    part: str = ""  # patient, study or number of the stack where one UID holds several
    dropped: str = ""  # reason why the series is no candidate, such as a localiser
    left_out: str = ""  # the images of the series outside this stack, such as "1 × localiser"
    xray: Path | None = None  # X-ray file beside a NIfTI file, with the same name

    @property
    def is_file(self) -> bool:
        return not self.slices

    @property
    def key(self) -> str:
        """Name of the stack: its SeriesInstanceUID (or study, or folder), with its part if that has several stacks."""
        uid = self.identity.series_uid
        return f"{uid}#{self.part}" if self.part else uid

    @property
    def coverage(self) -> float | None:
        """mm from the first to the last slice; None for NIfTI."""
        return float(self.heights[-1] - self.heights[0]) if len(self.heights) else None


def find_ct_series(
    source: str | Path, recursive: bool = True, exclude: Iterable[Path] = (), pool: Executor | None = None
) -> list[CtSeries]:
    """All CT stacks under `source` except in the folders `exclude`, sorted by UID; other files are ignored.

    `pool` reads the headers in processes, one folder per task; None reads them in this process.
    """
    folders = list(folders_of(Path(source), recursive, {os.path.realpath(p) for p in exclude}))
    found = merge_scans(pool.map(scan_files, folders, chunksize=4) if pool else map(scan_files, folders))
    tags = tags_of(found)
    return [stack for owner in sorted(found) for stack in _stacks(owner.name, tags[owner], found[owner])]


def patient_ids(series: Sequence[CtSeries]) -> list[str]:
    """The Patient ID of each series; where it is empty that of its study, if the study has exactly one, else ""."""
    named = defaultdict(set)
    for one in series:
        named[one.identity.study_uid] |= {one.identity.patient} - {""}
    known = {study: min(names) for study, names in named.items() if study and len(names) == 1}
    return [one.identity.patient or known.get(one.identity.study_uid, "") for one in series]


def folders_of(
    source: Path, recursive: bool = True, exclude: Iterable[str] = (), closed: list[str] | None = None
) -> Iterator[list[str]]:
    """The visible files of each folder under `source` except the resolved paths `exclude`; follows links.

    Files and folders that this user may not read are left out, and added to `closed`.
    """
    skipped, closed = set(exclude), [] if closed is None else closed
    for folder, children, names in os.walk(source, followlinks=True, onerror=lambda e: closed.append(e.filename)):
        real = os.path.realpath(folder)
        if real in skipped:  # a loop of links, or the output of an earlier run
            children.clear()
            continue
        skipped.add(real)
        children[:] = sorted(name for name in children if recursive and not name.startswith("."))
        files = [os.path.join(folder, name) for name in sorted(names) if not name.startswith(".")]
        files = [path for path in files if os.path.isfile(path)]
        closed.extend(path for path in files if not os.access(path, os.R_OK))
        files = [path for path in files if os.access(path, os.R_OK)]
        if files:
            yield files


def warn_closed(closed: Collection[str]) -> None:
    """Logs how many files and folders cannot be read; without their names, which may identify patients."""
    if closed:
        folders = sum(os.path.isdir(path) for path in closed)
        text = "%d files and %d folders may not be read by this user and are left out; chmod them or ask their owner"
        log.warning(text, len(closed) - folders, folders)


def _stacks(name: str, tag: str, scanned: Scanned) -> list[CtSeries]:
    """The stacks of one owner, without localisers, colour images, copied slices and slices of another layout."""
    slices = [one for one in scanned.slices if one.kind in scanned.headers]
    unreadable = [*scanned.unreadable, *(one.path for one in scanned.slices if one.kind not in scanned.headers)]
    notes = Counter({"unreadable header": len(unreadable)})
    if not slices:
        files = [Path(path) for path in dict.fromkeys(unreadable)]
        reason = f"unreadable header ({len(unreadable)} images)"
        return [CtSeries(files, Identity(series_uid=name), part=tag, dropped=reason)]
    kept = {}
    for one in slices:
        if one.other:
            notes[one.other] += 1
        elif one.uid and (one.uid, one.position) in kept:
            notes["copy of a slice"] += 1
        else:
            kept[(one.uid, one.position) if one.uid else one.path] = one
    if not kept:
        kinds = ", ".join(sorted({one.other for one in slices}))
        return [_series(name, scanned, slices, notes, tag, dropped=f"{kinds} ({len(slices)} images)")]
    stack = layouts_of(kept.values())[0]
    notes["slice of another orientation or size"] += len(kept) - len(stack)
    if any(scanned.headers[one.kind][1].burned_in for one in stack):
        return [_series(name, scanned, stack, notes, tag, dropped="burned-in annotation")]
    if not is_placed(stack):
        return [
            _series(
                name, scanned, stack, notes, tag, dropped="no position, orientation or pixel spacing in the headers"
            )
        ]
    distinct, span = places(heights_of(stack)), float(np.ptp(heights_of(stack)))
    if distinct < len(stack) / 2 and span < REPEATED_MM:
        reason = f"bolus tracking: {len(stack)} images at {distinct} places"
        return [_series(name, scanned, stack, notes, tag, dropped=reason)]
    phases = _phases(stack)
    parts = ["#".join(filter(None, (tag, number))) for number, _ in phases]
    return [_series(name, scanned, phase, notes, part) for part, (_, phase) in zip(parts, phases, strict=True)]


def _phases(stack: list[Slice]) -> list[tuple[str, list[Slice]]]:
    """One stack, or several at the same heights that differ in acquisition, phase, kernel or image type."""
    if places(heights_of(stack)) == len(stack):
        return [("", stack)]
    for i in range(len(stack[0].phase)):
        parts: dict[str, list[Slice]] = defaultdict(list)
        for one in stack:
            parts[str(one.phase[i])].append(one)
        whole = all(places(heights_of(part)) == len(part) for part in parts.values())
        if len(parts) > 1 and whole:
            return [(str(n + 1), parts[name]) for n, name in enumerate(sorted(parts))]
    return [("", stack)]


def _series(
    name: str, scanned: Scanned, stack: list[Slice], notes: Counter, part: str = "", dropped: str = ""
) -> CtSeries:
    placed = is_placed(stack)
    heights = heights_of(stack) if placed else np.zeros(0)
    order = np.argsort(heights, kind="stable") if placed else range(len(stack))
    left_out = ", ".join(f"{count} × {name}" for name, count in notes.items() if count)
    identity, acquisition = scanned.headers[stack[0].kind]
    few = f"{len(stack)} slices are too few for a volume" if places(heights) < SMALLEST else ""
    return CtSeries(
        files=list(dict.fromkeys(Path(stack[i].path) for i in order)),
        identity=replace(identity, series_uid=name),
        acquisition=acquisition,
        heights=np.sort(heights),
        slices=[stack[i] for i in order],
        normal=tuple(normal_of(stack[0].layout[0])) if placed else None,
        part=part,
        dropped=dropped or few,
        left_out="" if dropped else left_out,
    )
