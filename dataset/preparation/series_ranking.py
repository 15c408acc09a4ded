"""Which series of a study to use: ordered rules, and for every candidate the reason why it was chosen or not.

A rule scores a candidate from 0 (fails) to 1 (holds); the first rule in which two candidates differ decides. No rule
excludes a candidate: the only series of a study is kept, and the rules that it fails become flags.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from common.errors import UserError
from dataset.io.dicom_series import CtSeries


class Rule:
    """One criterion."""

    def evaluate(self, series: CtSeries) -> tuple[float, str]:
        """Score in [0, 1], and what it is based on, for the user."""
        raise NotImplementedError

    def score(self, series: CtSeries) -> float:
        return self.evaluate(series)[0]

    def reason(self, series: CtSeries) -> str:
        return self.evaluate(series)[1]


@dataclass
class Complete(Rule):
    """Evenly spaced slices: a series with missing slices, uneven spacing or gantry tilt cannot be read at all.

    `uneven` is the largest deviation of a gap as a share of the median gap, `tilt` the largest angle in degrees
    between the normal of the slices and the line through their positions.
    """

    uneven: float = 0.05
    tilt: float = 0.5

    def evaluate(self, series: CtSeries) -> tuple[float, str]:
        gaps = np.diff(np.unique(np.round(series.heights, 2)))  # copies of a slice make no gap
        even = not len(gaps) or np.abs(gaps - np.median(gaps)).max() <= self.uneven * np.median(gaps) + 0.01
        if not len(gaps) or (even and self._angle(series) <= self.tilt):
            return 1.0, "complete"
        return 0.0, "missing slices, uneven spacing or gantry tilt"

    def _angle(self, series: CtSeries) -> float:
        if not series.slices or not series.slices[0].position:
            return 0.0
        way = np.subtract(series.slices[-1].position, series.slices[0].position)
        along = float(way @ np.asarray(series.normal)) / max(float(np.linalg.norm(way)), 1e-9)
        return math.degrees(math.acos(min(1.0, along)))


@dataclass
class Axial(Rule):
    """Slices within `degrees` of the axial plane."""

    degrees: float = 35.0

    def evaluate(self, series: CtSeries) -> tuple[float, str]:
        if series.normal is None or abs(series.normal[2]) >= math.cos(math.radians(self.degrees)):
            return 1.0, "axial"
        return 0.0, "not axial"


@dataclass
class NotReformatted(Rule):
    """None of `words` (MIP, MPR, …) in Image Type or, as a separate word, in the description."""

    words: Sequence[str] = ("MIP", "MINIP", "MPR", "REFORMATTED", "PROJECTION IMAGE", "AVERAGE")

    def evaluate(self, series: CtSeries) -> tuple[float, str]:
        kinds = [kind.replace("_", " ") for kind in series.acquisition.image_type]
        described = re.split(r"[^A-Z0-9]+", series.acquisition.description.upper())
        for word in (w.upper() for w in self.words):
            if any(re.search(rf"\b{re.escape(word)}\b", kind) for kind in kinds) or word in described:
                return 0.0, f"reformatted ({word})"
        return 1.0, "no reformat"


@dataclass
class Contrast(Rule):
    """A contrast agent in the header, or one of `words` and none of `without` in the description; NIfTI scores 0.5."""

    words: Sequence[str] = ("CTPA", "CTA", "ANGIO", "PE", "R/O PE", "CE", "C+", "CONT", "CONTRAST", "KM")
    without: Sequence[str] = ("W/O", "WITHOUT", "NON CON", "NONCON", "NATIVE", "NATIV", "UNENHANCED")

    def evaluate(self, series: CtSeries) -> tuple[float, str]:
        if series.is_nifti:
            return 0.5, "contrast unknown"
        agent, text = series.acquisition.contrast.upper(), f" {series.acquisition.description.upper()} "
        stated = bool(agent) and agent not in ("NONE", "NO", "N", "0")
        denied = bool(agent) or any(word in text for word in self.without)
        described = any(re.search(rf"(?<![A-Z]){re.escape(word)}(?![A-Z])", text) for word in self.words)
        return (1.0, "contrast") if stated or (described and not denied) else (0.0, "no contrast stated")


@dataclass
class SoftKernel(Rule):
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
class Thin(Rule):
    """Slices at most `limit` mm thick; an unknown thickness scores 0.5."""

    limit: float = 3.0

    def evaluate(self, series: CtSeries) -> tuple[float, str]:
        thickness = series.acquisition.thickness
        if thickness is None:
            return 0.5, "thickness unknown"
        return float(thickness <= self.limit + 1e-6), f"{thickness:g} mm slices"


@dataclass
class ThoraxCovered(Rule):
    """Slices over at least `least_mm`, the height of a thorax; an unknown height (NIfTI) scores 0.5."""

    least_mm: float = 200.0

    def evaluate(self, series: CtSeries) -> tuple[float, str]:
        if series.coverage is None:
            return 0.5, "coverage unknown"
        return float(series.coverage >= self.least_mm), f"covers {series.coverage:.0f} mm"


@dataclass
class MoreSlices(Rule):
    """More slices score higher."""

    def evaluate(self, series: CtSeries) -> tuple[float, str]:
        if series.is_nifti:
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


def pick_rules(order: Sequence[str], criteria: dict[str, Rule]) -> list[tuple[str, Rule]]:
    """The named rules in this order.

    Raises:
        UserError: for a name that is not in `criteria`.
    """
    for name in order:
        if name not in criteria:
            raise UserError(f"rules={list(order)}: no rule {name}; choose from {', '.join(criteria)}")
    return [(name, criteria[name]) for name in order]


def rank(
    series: Sequence[CtSeries], rules: Sequence[tuple[str, Rule]], picks: set[str] | None = None
) -> list[Candidate]:
    """All series of one study, best first; unusable ones come last, with rank 0.

    The first is chosen. Flags of a series name the rules that it fails; a tie of the first two in every rule, decided
    by the lower UID, is a flag too.

    Args:
        picks: keys or UIDs of series; where some are of this study, they are chosen and no others.
    """
    usable = [one for one in series if not one.dropped]
    scores = {id(one): tuple(rule.score(one) for _, rule in rules) for one in usable}
    usable.sort(key=lambda one: (tuple(-s for s in scores[id(one)]), one.key))
    picked = [one for one in usable if picks and {one.key, one.identity.series_uid} & picks]
    best = (picked or usable)[:1]
    ranked = []
    for place, one in enumerate(usable, start=1):
        flags = [rule.reason(one) for (_, rule), score in zip(rules, scores[id(one)], strict=True) if score < 0.5]
        flags += [f"left out: {one.left_out}"] if one.left_out else []
        if picked:
            chosen = any(one is pick for pick in picked)
            reason = "picked by hand" if chosen else "another was picked by hand"
        elif one is best[0]:
            chosen, reason = True, "the only series" if len(usable) == 1 else "first by the rules"
            if len(usable) > 1 and scores[id(one)] == scores[id(usable[1])]:
                flags.append("ties with another series")
        else:
            chosen, reason = False, _why_not(one, best[0], scores, rules)
        ranked.append(Candidate(one, place, chosen, reason, flags))
    return ranked + [Candidate(one, 0, False, one.dropped) for one in series if one.dropped]


def _why_not(one: CtSeries, best: CtSeries, scores: dict, rules: Sequence[tuple[str, Rule]]) -> str:
    for (_, rule), mine, other in zip(rules, scores[id(one)], scores[id(best)], strict=True):
        if mine != other:
            return f"{rule.reason(one)}, the chosen one: {rule.reason(best)}"
    return "equal to the chosen one in every rule"
