"""Which CT slices belong together, by the identifiers in their headers, also where these are missing or wrong."""

import contextlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import combinations
from typing import NamedTuple

import numpy as np

from dataset.io.dicom_headers import (
    VALUE_ERRORS,
    CtAcquisition,
    Identity,
    Slice,
    header_of,
    identity_of,
    normal_of,
    read_ct_header,
    slices_of,
)
from dataset.io.slice_positions import fit_stack

SMALLEST = 4  # slices at different positions
SAME_PLACE_MM = 0.01  # slices closer than this are at the same position
SAME_DIRECTION = 1e-3  # largest difference of a direction cosine within a stack
SAME_SPACING = 1e-3  # largest relative difference of the pixel spacing within a stack


class Owner(NamedTuple):
    """What the slices of one scan share. Empty where a header has no value."""

    series: str  # SeriesInstanceUID
    patient: str
    study: str
    folder: str  # only where there is no SeriesInstanceUID

    @property
    def name(self) -> str:
        """The SeriesInstanceUID, or what replaces it."""
        return self.series or self.study or self.folder


@dataclass
class Scanned:
    """The files of one owner, before they are separated into stacks."""

    slices: list[Slice] = field(default_factory=list)
    headers: dict[tuple, tuple[Identity, CtAcquisition]] = field(default_factory=dict)  # by `Slice.kind`
    unreadable: list[str] = field(default_factory=list)  # files without a readable slice position

    def add(self, other: "Scanned") -> None:
        """Take in the files of another part."""
        self.slices.extend(other.slices)
        self.headers = {**other.headers, **self.headers}
        self.unreadable.extend(other.unreadable)


def scan_files(paths: list[str]) -> dict[Owner, Scanned]:
    """The headers of the CT files among `paths`, by owner."""
    found: dict[Owner, Scanned] = defaultdict(Scanned)
    for path in paths:
        if (ds := read_ct_header(path)) is None:
            continue
        try:
            identity = identity_of(ds)
        except VALUE_ERRORS:
            continue
        series = identity.series_uid
        one = found[Owner(series, identity.patient, identity.study_uid, "" if series else os.path.dirname(path))]
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


def merge_scans(parts: Iterable[dict[Owner, Scanned]]) -> dict[Owner, Scanned]:
    """The files of all parts by owner.

    A slice without patient or study belongs to the only owner that does not contradict it. Single slices with a UID of
    their own are joined where they make one even stack of a patient, in a study or in a folder.
    """
    found: dict[Owner, Scanned] = defaultdict(Scanned)
    for part in parts:
        for owner, one in part.items():
            found[owner].add(one)
    for owner in [owner for owner in found if not (owner.patient and owner.study)]:
        whole = [o for o in found if o != owner and o.series == owner.series != "" and _agree(owner, o)]
        if len(whole) == 1:
            found[whole[0]].add(found.pop(owner))
    _join(found, lambda owner, one: (owner.patient, owner.study) if owner.study else None)
    _join(found, lambda owner, one: (owner.patient, os.path.dirname(one.slices[0].path)))
    return dict(found)


def layouts_of(slices: Iterable[Slice]) -> list[list[Slice]]:
    """The slices by layout, up to the rounding of orientation and spacing; the most frequent layout first."""
    exact: dict[tuple, list[Slice]] = defaultdict(list)
    for one in slices:
        exact[one.layout].append(one)
    groups: list[tuple[tuple, list[Slice]]] = []
    for layout in sorted(exact, key=lambda layout: (len(exact[layout]), str(layout)), reverse=True):
        same = next((group for first, group in groups if _same_layout(first, layout)), None)
        if same is None:
            groups.append((layout, exact[layout]))
        else:
            same.extend(exact[layout])
    return sorted((group for _, group in groups), key=len, reverse=True)


def heights_of(slices: list[Slice]) -> np.ndarray:
    """Positions in mm along the normal of the first slice."""
    return np.array([one.position for one in slices], dtype=float) @ normal_of(slices[0].layout[0])


def places(heights: np.ndarray) -> int:
    """The number of different heights."""
    return 1 + int((np.diff(np.sort(heights)) > SAME_PLACE_MM).sum()) if len(heights) else 0


def is_placed(slices: list[Slice]) -> bool:
    """Whether all slices have a position, an orientation and a pixel spacing."""
    return bool(slices[0].layout[0] and slices[0].layout[1]) and all(len(one.position) == 3 for one in slices)


def tags_of(owners: Iterable[Owner]) -> dict[Owner, str]:
    """For each owner the values in which it differs from others of the same name; "" where its name is unique."""
    same: dict[str, list[Owner]] = defaultdict(list)
    for owner in owners:
        same[owner.name].append(owner)
    tags = {}
    for group in same.values():
        differing = [i for i in range(1, 4) if any(a[i] != b[i] for a, b in combinations(group, 2))]
        tags |= {owner: ",".join(owner[i] for i in differing) for owner in group}
    return tags


def _agree(blank: Owner, owner: Owner) -> bool:
    return blank.patient in ("", owner.patient) and blank.study in ("", owner.study)


def _join(found: dict[Owner, Scanned], key: Callable[[Owner, Scanned], tuple | None]) -> None:
    """Joins the owners of one slice each that make an even stack together."""
    groups: dict[tuple, list[Owner]] = defaultdict(list)
    for owner, one in found.items():
        if len(one.slices) == 1 and not one.slices[0].other and (name := key(owner, one)):
            groups[name].append(owner)
    for owners in groups.values():
        if len(owners) >= SMALLEST and _is_stack([found[owner].slices[0] for owner in owners]):
            first = min(owners)
            for owner in owners:
                if owner != first:
                    found[first].add(found.pop(owner))


def _is_stack(slices: list[Slice]) -> bool:
    if len(layouts_of(slices)) > 1 or not is_placed(slices):
        return False
    ordered = sorted(slices, key=lambda one: float(np.dot(one.position, normal_of(slices[0].layout[0]))))
    if places(heights_of(ordered)) < len(ordered):
        return False
    return not fit_stack(np.array([one.position for one in ordered]), normal_of(slices[0].layout[0])).fault


def _same_layout(one: tuple, other: tuple) -> bool:
    if [len(one[0]), len(one[1]), *one[2:]] != [len(other[0]), len(other[1]), *other[2:]]:
        return False
    return np.allclose(one[0], other[0], rtol=0, atol=SAME_DIRECTION) and np.allclose(
        one[1], other[1], SAME_SPACING, 0
    )
