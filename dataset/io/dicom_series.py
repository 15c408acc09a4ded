"""Search for CT series in a file tree by SeriesInstanceUID, from headers only.

A stack joins the slices of a series from several folders. It excludes other series in a folder, other acquisitions
under one UID, and localisers.
"""

import contextlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dataset.io.dicom_headers import (
    VALUE_ERRORS,
    CtAcquisition,
    Identity,
    Slice,
    header_of,
    normal_of,
    read_header,
    slices_of,
)

NOT_DICOM = (".nii", ".nii.gz", ".png", ".jpg", ".npy", ".csv", ".txt", ".json")
SMALLEST = 4  # slices at different positions
SAME_PLACE_MM = 0.01  # slices closer than this are at the same position
REPEATED_MM = 60.0  # a shorter stack with repeated positions is bolus tracking


@dataclass
class Scanned:
    """The files of one UID, before they are separated into stacks."""

    slices: list[Slice] = field(default_factory=list)
    headers: dict[tuple, tuple[Identity, CtAcquisition]] = field(default_factory=dict)  # by `Slice.kind`
    unreadable: list[str] = field(default_factory=list)  # files without a readable slice position


@dataclass
class CtSeries:
    """One stack of CT slices, or one NIfTI file, with its header values. They may identify a patient."""

    files: list[Path]
    identity: Identity = Identity()
    acquisition: CtAcquisition = CtAcquisition()
    normal: tuple[float, float, float] | None = None  # unit vector of the stack (LPS), None for NIfTI
    heights: np.ndarray = field(default_factory=lambda: np.zeros(0))  # mm of each slice along the normal, sorted
    slices: list[Slice] = field(default_factory=list, repr=False)
    part: str = ""  # number of the stack where one UID holds several
    dropped: str = ""  # reason why the series is no candidate, such as a localiser
    left_out: str = ""  # the images of the series outside this stack, such as "1 × localiser"
    xray: Path | None = None  # X-ray file beside a NIfTI file, with the same name

    @property
    def is_nifti(self) -> bool:
        return not self.slices

    @property
    def key(self) -> str:
        """Name of the stack: its SeriesInstanceUID, with its part if the UID has several stacks."""
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
    found: dict[str, Scanned] = defaultdict(Scanned)
    for part in pool.map(scan_files, folders, chunksize=4) if pool else map(scan_files, folders):
        for uid, one in part.items():
            found[uid].slices.extend(one.slices)
            found[uid].headers = {**one.headers, **found[uid].headers}
            found[uid].unreadable.extend(one.unreadable)
    return [stack for uid in sorted(found) for stack in _stacks(uid, found[uid])]


def scan_files(paths: list[str]) -> dict[str, Scanned]:
    """SeriesInstanceUID -> headers of its CT files among `paths`."""
    found: dict[str, Scanned] = defaultdict(Scanned)
    for path in paths:
        ds = None if path.lower().endswith(NOT_DICOM) else read_header(path)
        uid = ""
        with contextlib.suppress(*VALUE_ERRORS):
            if ds is not None and ds.get("Modality") == "CT":
                uid = str(ds.get("SeriesInstanceUID") or "")
        if not uid:
            continue
        one = found[uid]
        try:
            slices = slices_of(ds, path)
        except VALUE_ERRORS:
            one.unreadable.append(path)
            continue
        one.slices.extend(slices)
        for kind in {piece.kind for piece in slices} - one.headers.keys():
            with contextlib.suppress(*VALUE_ERRORS):  # the next file of this kind may be readable
                one.headers[kind] = header_of(ds)
    return dict(found)


def folders_of(source: Path, recursive: bool = True, exclude: Iterable[str] = ()) -> Iterator[list[str]]:
    """The visible files of each folder under `source` except the resolved paths `exclude`; follows links."""
    skipped = set(exclude)
    for folder, children, names in os.walk(source, followlinks=True):
        real = os.path.realpath(folder)
        if real in skipped:  # a loop of links, or the output of an earlier run
            children.clear()
            continue
        skipped.add(real)
        children[:] = sorted(name for name in children if recursive and not name.startswith("."))
        files = [os.path.join(folder, name) for name in sorted(names) if not name.startswith(".")]
        files = [path for path in files if os.path.isfile(path)]
        if files:
            yield files


def _stacks(uid: str, scanned: Scanned) -> list[CtSeries]:
    """The stacks of one UID, without localisers, copied slices and slices of another layout."""
    slices = [one for one in scanned.slices if one.kind in scanned.headers]
    unreadable = [*scanned.unreadable, *(one.path for one in scanned.slices if one.kind not in scanned.headers)]
    notes = Counter({"unreadable header": len(unreadable)})
    if not slices:
        files = [Path(path) for path in dict.fromkeys(unreadable)]
        return [CtSeries(files, Identity(series_uid=uid), dropped=f"unreadable header ({len(unreadable)} images)")]
    kept = {}
    for one in slices:
        if one.localiser:
            notes["localiser"] += 1
        elif one.uid and one.uid in kept:
            notes["copy of a slice"] += 1
        else:
            kept[one.uid or one.path] = one
    if not kept:
        return [_series(scanned, slices, notes, dropped=f"localiser ({len(slices)} images)")]
    layouts = Counter(one.layout for one in kept.values())
    main = max(layouts, key=lambda layout: (layouts[layout], str(layout)))
    notes["slice of another orientation or size"] += len(kept) - layouts[main]
    stack = [one for one in kept.values() if one.layout == main]
    if any(scanned.headers[one.kind][1].burned_in for one in stack):
        return [_series(scanned, stack, notes, dropped="burned-in annotation")]
    if not main[0] or not all(len(one.position) == 3 for one in stack):
        return [_series(scanned, stack, notes, dropped="no position or orientation in the headers")]
    distinct, span = _distinct(_heights(stack)), float(np.ptp(_heights(stack)))
    if distinct < len(stack) / 2 and span < REPEATED_MM:
        reason = f"bolus tracking: {len(stack)} images at {distinct} places"
        return [_series(scanned, stack, notes, dropped=reason)]
    return [_series(scanned, part, notes, name) for name, part in _phases(stack)]


def _phases(stack: list[Slice]) -> list[tuple[str, list[Slice]]]:
    """One stack, or several at the same heights that differ in acquisition, phase, kernel or image type."""
    if _distinct(_heights(stack)) == len(stack):
        return [("", stack)]
    for i in range(len(stack[0].phase)):
        parts: dict[str, list[Slice]] = defaultdict(list)
        for one in stack:
            parts[str(one.phase[i])].append(one)
        whole = all(_distinct(_heights(part)) == len(part) for part in parts.values())
        if len(parts) > 1 and whole:
            return [(str(n + 1), parts[name]) for n, name in enumerate(sorted(parts))]
    return [("", stack)]


def _series(scanned: Scanned, stack: list[Slice], notes: Counter, part: str = "", dropped: str = "") -> CtSeries:
    placed = bool(stack[0].layout[0]) and all(len(one.position) == 3 for one in stack)
    heights = _heights(stack) if placed else np.zeros(0)
    order = np.argsort(heights, kind="stable") if placed else range(len(stack))
    left_out = ", ".join(f"{count} × {name}" for name, count in notes.items() if count)
    identity, acquisition = scanned.headers[stack[0].kind]
    few = f"{len(stack)} slices are too few for a volume" if _distinct(heights) < SMALLEST else ""
    return CtSeries(
        files=list(dict.fromkeys(Path(stack[i].path) for i in order)),
        identity=identity,
        acquisition=acquisition,
        heights=np.sort(heights),
        slices=[stack[i] for i in order],
        normal=tuple(normal_of(stack[0].layout[0])) if placed else None,
        part=part,
        dropped=dropped or few,
        left_out="" if dropped else left_out,
    )


def _heights(stack: list[Slice]) -> np.ndarray:
    return np.array([one.position for one in stack], dtype=float) @ normal_of(stack[0].layout[0])


def _distinct(heights: np.ndarray) -> int:
    return 1 + int((np.diff(np.sort(heights)) > SAME_PLACE_MM).sum()) if len(heights) else 0
