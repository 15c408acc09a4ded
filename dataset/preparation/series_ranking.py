"""Ranks the series of a study by ordered rules and gives the reason for each candidate.

A rule scores a candidate from 0 (fails) to 1 (holds); the first rule in which two candidates differ decides. No rule
excludes a candidate: the only series of a study is kept, and the rules that it fails become flags.
"""

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from common.errors import UserError
from dataset.io.dicom_groups import SAME_PLACE_MM
from dataset.io.dicom_series import CtSeries
from dataset.io.slice_positions import fit_stack

NO_AGENT = ("", "NONE", "NO", "N", "0")  # values of Contrast Bolus Agent without contrast


class Rule(Protocol):
    """One criterion."""

    def evaluate(self, series: CtSeries) -> tuple[float, str]:
        """Score in [0, 1], and the finding in words."""
        ...


@dataclass
class Complete:
    """Evenly spaced slices: a series with missing slices, uneven spacing or gantry tilt cannot be read at all."""

    def evaluate(self, series: CtSeries) -> tuple[float, str]:
        if series.normal is None:
            return 1.0, "complete"
        positions = np.array([one.position for one in series.slices])
        apart = np.diff(series.heights, prepend=-np.inf) > SAME_PLACE_MM  # copies of a slice make no gap
        if not fit_stack(positions[apart], np.asarray(series.normal)).fault:
            return 1.0, "complete"
        return 0.0, "missing slices, uneven spacing or gantry tilt"


@dataclass
class Axial:
    """Slices within `degrees` of the axial plane."""

    degrees: float

    def evaluate(self, series: CtSeries) -> tuple[float, str]:
        if series.normal is None or abs(series.normal[2]) >= math.cos(math.radians(self.degrees)):
            return 1.0, "axial"
        return 0.0, "not axial"


@dataclass
class NotReformatted:
    """None of `words` (MIP, MPR, …) in Image Type or, as a separate word, in the description."""

    words: Sequence[str]

    def evaluate(self, series: CtSeries) -> tuple[float, str]:
        kinds = [kind.replace("_", " ") for kind in series.acquisition.image_type]
        described = re.split(r"[^A-Z0-9]+", series.acquisition.description.upper())
        for word in (w.upper() for w in self.words):
            if any(re.search(rf"\b{re.escape(word)}\b", kind) for kind in kinds) or word in described:
                return 0.0, f"reformatted ({word})"
        return 1.0, "no reformat"


@dataclass
class Contrast:
    """A contrast agent in the header, or one of `words` and none of `without` in the description; NIfTI scores 0.5."""

    words: Sequence[str]
    without: Sequence[str]

    def evaluate(self, series: CtSeries) -> tuple[float, str]:
        if series.is_file:
            return 0.5, "contrast unknown"
        text = f" {series.acquisition.description.upper()} "
        excluded = bool(series.acquisition.contrast) or any(word in text for word in self.without)
        described = any(re.search(rf"(?<![A-Z]){re.escape(word)}(?![A-Z])", text) for word in self.words)
        if has_contrast_agent(series) or (described and not excluded):
            return 1.0, "contrast"
        return 0.0, "no contrast agent in header or description"


@dataclass
class SoftKernel:
    """A convolution kernel for soft tissue, by regular expressions; an unknown kernel scores 0.5.

    They match manufacturers' names: Siemens B30f, I31f, Br40, Qr40 (sharp from 50 on), GE STANDARD and LUNG, Philips B
    and YA, Canon FC08 and FC52.
    """

    soft: str = r"^[BDIHTQUS][A-Z]?[0-4]\d[A-Z]?\b|^(SOFT|STANDARD|STND|DETAIL|CHST)|^[ABC]$|^FC[012]\d"
    sharp: str = r"^[BDIHTQUS][A-Z]?[5-9]\d[A-Z]?\b|^(LUNG|BONE|EDGE|ULTRA)|^[DEFL]$|^Y[A-D]$|^FC[3-9]\d"

    def evaluate(self, series: CtSeries) -> tuple[float, str]:
        kernel = series.acquisition.kernel.strip().upper()
        if re.search(self.sharp, kernel):
            return 0.0, "sharp kernel"
        return (1.0, "soft kernel") if re.search(self.soft, kernel) else (0.5, "kernel unknown")


@dataclass
class Thin:
    """Slices at most `limit` mm thick; an unknown thickness scores 0.5."""

    limit: float

    def evaluate(self, series: CtSeries) -> tuple[float, str]:
        thickness = series.acquisition.thickness
        if thickness is None:
            return 0.5, "thickness unknown"
        return float(thickness <= self.limit + 1e-6), f"{thickness:g} mm slices"


@dataclass
class ThoraxCovered:
    """Slices over at least `least_mm`, the height of a thorax; an unknown height (NIfTI) scores 0.5."""

    least_mm: float

    def evaluate(self, series: CtSeries) -> tuple[float, str]:
        if series.coverage is None:
            return 0.5, "coverage unknown"
        return float(series.coverage >= self.least_mm), f"covers {series.coverage:.0f} mm"


@dataclass
class MoreSlices:
    """More slices score higher."""

    def evaluate(self, series: CtSeries) -> tuple[float, str]:
        if series.is_file:
            return 1.0, "one file"
        return 1.0 - 1.0 / (1.0 + len(series.slices)), f"{len(series.slices)} slices"


@dataclass
class Candidate:
    """A series with its rank in its study (1 is the best; 0: cannot be used), the reason, and flags for the user."""

    series: CtSeries
    place: int
    chosen: bool
    reason: str
    flags: list[str] = field(default_factory=list)


def has_contrast_agent(series: CtSeries) -> bool:
    """Whether the header names a contrast agent or route."""
    return series.acquisition.contrast.upper() not in NO_AGENT


def pick_rules(order: Sequence[str], criteria: dict[str, Rule]) -> list[Rule]:
    """The rules in the order of their names. Raises UserError for a name that is not in `criteria`."""
    for name in order:
        if name not in criteria:
            raise UserError(f"rules={list(order)}: no rule {name}; choose from {', '.join(criteria)}")
    return [criteria[name] for name in order]


def rank(series: Sequence[CtSeries], rules: Sequence[Rule], picks: Collection[str] = ()) -> list[Candidate]:
    """All series of one study, best first; unusable ones come last, with rank 0.

    The first is chosen. Flags of a series name the rules that it fails; a tie of the first two in every rule, decided
    by the lower UID, is a flag too.

    Args:
        picks: keys or UIDs of series; where some are of this study, they are chosen and no others.
    """
    usable = [one for one in series if not one.dropped]
    results = {one.key: [rule.evaluate(one) for rule in rules] for one in usable}
    scores = {key: [score for score, _ in found] for key, found in results.items()}
    usable.sort(key=lambda one: ([-score for score in scores[one.key]], one.key))
    picked = {one.key for one in usable if {one.key, one.identity.series_uid}.intersection(picks)}
    ranked = []
    for place, one in enumerate(usable, start=1):
        flags = [finding for score, finding in results[one.key] if score < 0.5]
        flags += [f"left out: {one.left_out}"] if one.left_out else []
        chosen = one.key in picked if picked else place == 1
        if picked:
            reason = "selected by the user" if chosen else "the user selected another series"
        elif chosen:
            reason = "the only series" if len(usable) == 1 else "ranked first"
            if len(usable) > 1 and scores[one.key] == scores[usable[1].key]:
                flags.append("ties with another series")
        else:
            pairs = zip(results[one.key], results[usable[0].key], strict=True)
            differences = (f"{mine[1]}, the chosen series: {best[1]}" for mine, best in pairs if mine[0] != best[0])
            reason = next(differences, "equal to the chosen series in every rule")
        ranked.append(Candidate(one, place, chosen, reason, flags))
    return ranked + [Candidate(one, 0, False, one.dropped) for one in series if one.dropped]
