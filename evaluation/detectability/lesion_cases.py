"""Cases of the lesion benchmark: the patients, which of them have the lesion, and what the filters know of them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dataset.imaging.hu_window import Window
from dataset.phantom.anatomy import LABELS
from dataset.phantom.lesions import HEALTHY, LESIONS, NODULES_MM, candidates
from dataset.sources.lesion_phantoms import LesionPhantoms, lesion_of


@dataclass(frozen=True)
class Known:
    """What the filters know of one patient.

    Attributes:
        signals: change of HU by lesion, at the place where the patient has it or would have it.
        shadows: change of the X-ray by lesion.
        elsewhere: changes of HU at all places where the lesion can be, for lesions other than nodules.
        lungs: where a nodule can be.
    """

    signals: dict[str, Float[np.ndarray, "d h w"]]
    shadows: dict[str, Float[np.ndarray, "v h w"]]
    elsewhere: dict[str, list[Float[np.ndarray, "d h w"]]]
    lungs: Bool[np.ndarray, "d h w"]


class LesionCases:
    """Patients of `LesionPhantoms`, of which every second one has the lesion.

    Args:
        source: the phantoms; `cases` is the `CaseDataset` of its rows.
        window: of the generator; signals are changes within it.
    """

    def __init__(self, source: LesionPhantoms, cases, window: Window):
        self._source, self._cases, self._window = source, cases, window
        records = cases.rows.to_dict("records")
        self._index = {(str(row["patient"]), lesion_of(row)): i for i, row in enumerate(records)}
        self._records = {str(row["patient"]): row for row in records}
        self.patients = list(self._records)

    def present(self, patient: str) -> bool:
        """Whether a patient belongs to the half with lesions."""
        return self.patients.index(patient) % 2 == 0

    def shown(self) -> list[tuple[str, str]]:
        """`(patient, lesion)` of each volume to generate: healthy ones of one half, all lesions of the other."""
        return [(p, lesion) for p in self.patients for lesion in (LESIONS if self.present(p) else (HEALTHY,))]

    def case(self, patient: str, lesion: str) -> dict[str, Tensor]:
        """The case of a patient with a lesion, as `CaseDataset.case`."""
        return self._cases.case(self._index[patient, lesion])

    def truth(self, patient: str, lesion: str) -> Float[Tensor, "d h w"]:
        """The true volume in HU within the window."""
        return self.case(patient, lesion)["ct"].float().clamp(self._window.low, self._window.high)

    def known(self, patient: str) -> Known:
        """What the filters know of a patient; renders the places of a blind search."""
        healthy = self.case(patient, HEALTHY)
        base, picture = self.truth(patient, HEALTHY), healthy["xray"].float()
        signals, shadows = {}, {}
        for lesion in LESIONS:
            signals[lesion] = (self.truth(patient, lesion) - base).numpy()
            shadows[lesion] = torch.nan_to_num(self.case(patient, lesion)["xray"].float() - picture).numpy()
        lungs = np.isin(healthy["labels"].numpy(), (LABELS["lungs"], LABELS["vessels"]))
        elsewhere = {name: list(self._places(patient, name, base)) for name in LESIONS if name not in NODULES_MM}
        return Known(signals, shadows, elsewhere, lungs)

    def _places(self, patient: str, lesion: str, base: Tensor) -> Iterator[np.ndarray]:
        index = self._source.index(self._records[patient])
        for disease in candidates(lesion):
            hu = torch.from_numpy(self._source.render(index, disease).hu).round()
            yield (hu.clamp(self._window.low, self._window.high) - base).numpy()
