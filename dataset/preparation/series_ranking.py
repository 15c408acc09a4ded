"""Which series of a study is used: an ordered list of rules, and for every candidate the reason why it was or was not.

A rule gives a candidate a score from 0 (fails) to 1 (holds); the first rule in which two candidates differ decides.
No rule excludes: the only series of a study is kept, and what it fails is said.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from common.errors import UserError
from dataset.io.dicom_series import CtSeries


class Rule(Protocol):
    """One criterion. `score` is compared between candidates, `reason` says what a candidate has."""

    def score(self, series: CtSeries) -> float: ...
    def reason(self, series: CtSeries) -> str: ...


@dataclass
class Complete:
    """Positions without a gap: a series with missing slices, uneven spacing or gantry tilt cannot be read at all."""

    uneven: float = 0.05  # of the usual gap
    tilt: float = 0.5  # degrees between the normal of the slices and the way from slice to slice

    def score(self, series: CtSeries) -> float:
        heights = np.unique(np.round(series.heights, 2))  # copies of a slice are no gap
        if len(heights) < 2:
            return 1.0
        gaps = np.diff(heights)
        even = np.abs(gaps - np.median(gaps)).max() <= self.uneven * np.median(gaps) + 0.01
        return float(even and self._leans(series) <= self.tilt)

    def reason(self, series: CtSeries) -> str:
        return "complete" if self.score(series) else "missing slices, uneven spacing or gantry tilt"

    def _leans(self, series: CtSeries) -> float:
        if not series.slices or not series.slices[0].position:
            return 0.0
        way = np.subtract(series.slices[-1].position, series.slices[0].position)
        along = float(way @ np.asarray(series.normal)) / max(float(np.linalg.norm(way)), 1e-9)
        return math.degrees(math.acos(min(1.0, along)))


@dataclass
class Axial:
    """Slices lie within `degrees` of the axial plane."""

    degrees: float = 35.0

    def score(self, series: CtSeries) -> float:
        return float(series.normal is None or abs(series.normal[2]) >= math.cos(math.radians(self.degrees)))

    def reason(self, series: CtSeries) -> str:
        return "axial" if self.score(series) else "not axial"


@dataclass
class NotReformatted:
    """None of `words` (MIP, MPR, …) in Image Type or, as a word of its own, in the description."""

    words: Sequence[str] = ("MIP", "MINIP", "MPR", "REFORMATTED", "PROJECTION IMAGE", "AVERAGE")

    def found(self, series: CtSeries) -> str:
        kinds = [kind.replace("_", " ") for kind in series.acquisition.image_type]
        described = re.split(r"[^A-Z0-9]+", series.acquisition.description.upper())
        for word in (w.upper() for w in self.words):
            if any(re.search(rf"\b{re.escape(word)}\b", kind) for kind in kinds) or word in described:
                return word
        return ""

    def score(self, series: CtSeries) -> float:
        return float(not self.found(series))

    def reason(self, series: CtSeries) -> str:
        word = self.found(series)
        return f"reformatted ({word})" if word else "no reformat"


@dataclass
class Contrast:
    """A contrast agent is stated, or a word of the description says so; words of `without` deny it.

    A NIfTI file cannot say and counts half.
    """

    words: Sequence[str] = ("CTPA", "CTA", "ANGIO", "PE", "R/O PE", "CE", "C+", "CONT", "CONTRAST", "KM")
    without: Sequence[str] = ("W/O", "WITHOUT", "NON CON", "NONCON", "NATIVE", "NATIV", "UNENHANCED")

    def score(self, series: CtSeries) -> float:
        if series.is_nifti:
            return 0.5
        agent, text = series.acquisition.contrast.upper(), f" {series.acquisition.description.upper()} "
        if agent and agent not in ("NONE", "NO", "N", "0"):
            return 1.0
        if agent or any(word in text for word in self.without):
            return 0.0
        return float(any(re.search(rf"(?<![A-Z]){re.escape(word)}(?![A-Z])", text) for word in self.words))

    def reason(self, series: CtSeries) -> str:
        return {0.0: "no contrast stated", 0.5: "contrast unknown", 1.0: "contrast"}[self.score(series)]


@dataclass
class SoftKernel:
    """A convolution kernel for soft tissue, by patterns; one that no pattern knows counts half.

    The patterns are the manufacturers' names: Siemens B30f, I31f, Br40, Qr40 (sharp from 50 on), GE STANDARD and LUNG,
    Philips B and YA, Canon FC08 and FC52.
    """

    soft: str = r"^[BDIHTQUS][A-Z]?[0-4]\d[A-Z]?\b|^(SOFT|STANDARD|STND|DETAIL|CHST)|^[ABC]$|^FC[012]\d"
    sharp: str = r"^[BDIHTQUS][A-Z]?[5-9]\d[A-Z]?\b|^(LUNG|BONE|EDGE|ULTRA)|^[DEFL]$|^Y[A-D]$|^FC[3-9]\d"

    def score(self, series: CtSeries) -> float:
        kernel = series.acquisition.kernel.strip().upper()
        if re.search(self.sharp, kernel):
            return 0.0
        return 1.0 if re.search(self.soft, kernel) else 0.5

    def reason(self, series: CtSeries) -> str:
        return {0.0: "sharp kernel", 0.5: "kernel unknown", 1.0: "soft kernel"}[self.score(series)]


@dataclass
class Thin:
    """Slices at most `limit` mm thick; unknown counts half."""

    limit: float = 3.0

    def score(self, series: CtSeries) -> float:
        return (
            0.5 if series.acquisition.thickness is None else float(series.acquisition.thickness <= self.limit + 1e-6)
        )

    def reason(self, series: CtSeries) -> str:
        return (
            "thickness unknown"
            if series.acquisition.thickness is None
            else f"{series.acquisition.thickness:g} mm slices"
        )


@dataclass
class ThoraxCovered:
    """The slices reach over at least `least_mm`, the height of a thorax; unknown (NIfTI) counts half."""

    least_mm: float = 200.0

    def score(self, series: CtSeries) -> float:
        return 0.5 if series.coverage is None else float(series.coverage >= self.least_mm)

    def reason(self, series: CtSeries) -> str:
        return "coverage unknown" if series.coverage is None else f"covers {series.coverage:.0f} mm"


@dataclass
class MoreSlices:
    """The more slices the better; nothing to fail."""

    def score(self, series: CtSeries) -> float:
        return 1.0 if series.is_nifti else 1.0 - 1.0 / (1.0 + len(series.slices))

    def reason(self, series: CtSeries) -> str:
        return "one file" if series.is_nifti else f"{len(series.slices)} slices"


@dataclass
class Candidate:
    """A series with its place in its study (1 is the best), why it stands there, and what to look at."""

    series: CtSeries
    place: int
    chosen: bool
    reason: str
    flags: list[str] = field(default_factory=list)


def pick_rules(order: Sequence[str], criteria: dict[str, Rule]) -> list[tuple[str, Rule]]:
    """The named rules in order.

    Raises:
        UserError: for a name that is none of `criteria`.
    """
    for name in order:
        if name not in criteria:
            raise UserError(f"rules={list(order)}: no rule {name}; choose from {', '.join(criteria)}")
    return [(name, criteria[name]) for name in order]


def rank(
    series: Sequence[CtSeries], rules: Sequence[tuple[str, Rule]], picks: set[str] | None = None
) -> list[Candidate]:
    """All series of one study, best first; what was dropped comes last, unplaced.

    Args:
        picks: keys or UIDs of series that the user wants: where one is of this study, those are chosen and no other.

    The first is chosen. Its flags name the rules that it fails; where the next one ties with it in every rule, that is
    a flag too (the lower UID came first).
    """
    usable = [one for one in series if not one.dropped]
    scores = {id(one): tuple(rule.score(one) for _, rule in rules) for one in usable}
    usable.sort(key=lambda one: (tuple(-s for s in scores[id(one)]), one.key))
    wanted = [one for one in usable if picks and {one.key, one.identity.series_uid} & picks]
    best = (wanted or usable)[:1]
    ranked = []
    for place, one in enumerate(usable, start=1):
        flags = [rule.reason(one) for (_, rule), score in zip(rules, scores[id(one)], strict=True) if score < 0.5]
        flags += [f"left out: {one.left_out}"] if one.left_out else []
        if wanted:
            chosen = any(one is pick for pick in wanted)
            reason = "picked by hand" if chosen else "another was picked by hand"
        elif one is best[0]:
            chosen, reason = True, "the only series" if len(usable) == 1 else "first by the rules"
            if len(usable) > 1 and scores[id(one)] == scores[id(usable[1])]:
                flags.append("ties with another series")
        else:
            chosen, reason = False, _lost(one, best[0], scores, rules)
        ranked.append(Candidate(one, place, chosen, reason, flags))
    return ranked + [Candidate(one, 0, False, one.dropped) for one in series if one.dropped]


def _lost(one: CtSeries, best: CtSeries, scores: dict, rules: Sequence[tuple[str, Rule]]) -> str:
    for (_, rule), mine, other in zip(rules, scores[id(one)], scores[id(best)], strict=True):
        if mine != other:
            return f"{rule.reason(one)}, the chosen one: {rule.reason(best)}"
    return "equal to the chosen one in every rule"
