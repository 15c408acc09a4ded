"""Cases of the lesion benchmark: the chests, which of them have the lesion, and what the filters know of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from common.errors import UserError
from dataset.imaging.hu_window import Window
from dataset.imaging.lung_segmentation import segment_lungs
from dataset.phantom.anatomy import LABELS
from dataset.phantom.lesions import HEALTHY, NODULES_MM, lesion_of, subject_of
from dataset.sources.lesion_phantoms import LesionPhantoms
from dataset.sources.lesion_scans import LesionScans
from dataset.sources.morphs import MorphSource
from dataset.sources.phantom import PhantomSource

FEWEST = 4  # subjects


class LesionSource(Protocol):
    """A source of chests, each without a lesion and with each one: `LesionPhantoms` or `LesionScans`.

    A *subject* is a chest with one place for each lesion; a CT is several subjects, a phantom one.
    """

    lesions: tuple[str, ...]
    both: bool  # every subject is shown with and without a lesion, not only every second one with it
    rows: pd.DataFrame  # ids end in the lesion

    def places(self, row, lesion: str) -> Iterator[Float[np.ndarray, "d h w"]]: ...  # HU with it at each place


def with_lesions(source: PhantomSource | MorphSource, count: int | None, places: int) -> LesionSource:
    """The first `count` (None: all) test phantoms or test CTs of a source, with lesions at `places` in each CT.

    UserError for fewer than `FEWEST` subjects.
    """
    if isinstance(source, PhantomSource):
        found, remedy = LesionPhantoms.of(source, count), f"cases={count}: give at least {FEWEST} phantoms"
    else:
        found = LesionScans(source.source, places, count)
        remedy = f"places={places}: give at least {FEWEST} places in the test CTs together"
    subjects = len({subject_of(row) for row in found.rows.to_dict("records")})
    if subjects < FEWEST:
        raise UserError(f"{remedy}; found {subjects}")
    return found


@dataclass(frozen=True)
class Known:
    """What the filters know of one subject.

    Attributes:
        signals: change of HU by lesion, at the place where the subject has it or would have it.
        shadows: change of the X-ray by lesion.
        elsewhere: changes of HU at all places where the lesion can be, for lesions other than nodules.
        lungs: where a nodule can be.
    """

    signals: dict[str, Float[np.ndarray, "d h w"]]
    shadows: dict[str, Float[np.ndarray, "v h w"]]
    elsewhere: dict[str, list[Float[np.ndarray, "d h w"]]]
    lungs: Bool[np.ndarray, "d h w"]


class LesionCases:
    """Subjects of a source, each shown with and without a lesion, or every second one with it.

    Args:
        source: the chests; `cases` is the `CaseDataset` of its rows.
        window: of the generator; signals are changes within it.
    """

    def __init__(self, source: LesionSource, cases, window: Window):
        self._source, self._cases, self._window = source, cases, window
        records = cases.rows.to_dict("records")
        self._index = {(subject_of(row), lesion_of(row)): i for i, row in enumerate(records)}
        self._records = {subject_of(row): row for row in records}
        self.subjects = list(self._records)

    def patient(self, subject: str) -> str:
        """The patient of a subject."""
        return str(self._records[subject]["patient"])

    def lesions(self, subject: str) -> list[str]:
        """The lesions that have a place in a subject."""
        return [lesion for lesion in self._source.lesions if (subject, lesion) in self._index]

    def shown(self) -> list[tuple[str, str]]:
        """`(subject, lesion)` of each volume to generate."""
        found = []
        for i, subject in enumerate(self.subjects):
            with_healthy = self._source.both or i % 2 == 1
            found += [(subject, HEALTHY)] * with_healthy
            found += [(subject, lesion) for lesion in self.lesions(subject) if self._source.both or i % 2 == 0]
        return found

    def case(self, subject: str, lesion: str) -> dict[str, Tensor]:
        """The case of a subject with a lesion, as `CaseDataset.case`."""
        return self._cases.case(self._index[subject, lesion])

    def truth(self, subject: str, lesion: str) -> Float[Tensor, "d h w"]:
        """The true volume in HU within the window."""
        return self.case(subject, lesion)["ct"].float().clamp(self._window.low, self._window.high)

    def known(self, subject: str) -> Known:
        """What the filters know of a subject; renders the places of a blind search."""
        healthy = self.case(subject, HEALTHY)
        base, picture = self.truth(subject, HEALTHY), healthy["xray"].float()
        signals, shadows = {}, {}
        for lesion in self.lesions(subject):
            signals[lesion] = (self.truth(subject, lesion) - base).numpy()
            shadows[lesion] = torch.nan_to_num(self.case(subject, lesion)["xray"].float() - picture).numpy()
        if "labels" in healthy:
            lungs = np.isin(healthy["labels"].numpy(), (LABELS["lungs"], LABELS["vessels"]))
        else:
            lungs = segment_lungs(healthy["ct"].float().numpy(), healthy["spacing"].tolist())
        searched = [name for name in signals if name not in NODULES_MM]
        elsewhere = {name: list(self._places(subject, name, base)) for name in searched}
        return Known(signals, shadows, elsewhere, lungs)

    def _places(self, subject: str, lesion: str, base: Tensor) -> Iterator[np.ndarray]:
        for hu in self._source.places(self._records[subject], lesion):
            yield (torch.from_numpy(hu).clamp(self._window.low, self._window.high) - base).numpy()
