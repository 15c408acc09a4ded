"""Healthy phantoms, each once without a lesion and once with each lesion, for measuring what a generator keeps."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Float

from dataset.cases.case import case_key
from dataset.manifest.table import make_rows
from dataset.phantom.anatomy import Disease
from dataset.phantom.lesions import HEALTHY, LESION_VERSION, LESIONS, candidates, draw_lesion, lesion_of
from dataset.sources.phantom import PhantomSource, phantom_index


class LesionPhantoms(PhantomSource):
    """The test phantoms of a population without their own findings; the id of a case ends in its lesion."""

    lesions, both = LESIONS, False

    @classmethod
    def of(cls, source: PhantomSource, patients: int | None = None) -> "LesionPhantoms":
        """The first `patients` test phantoms of a source; None means all."""
        count = source.population.test if patients is None else min(patients, source.population.test)
        population = replace(source.population, test=count)
        groups = population, source.geometry, source.xray
        return cls(*groups, source.pose_noise, source.name, source.oversample)

    @cached_property
    def rows(self) -> pd.DataFrame:
        """A row for each phantom and lesion, `healthy` first; all are test cases."""
        first = self.population.test_from
        patients = [f"phantom_{first + i:08d}" for i in range(self.population.test)]
        return make_rows(
            {"id": f"{name}_{lesion}", "patient": name, "view": "PA", "xray_source": "drr", "split": "test"}
            for name in patients
            for lesion in (HEALTHY, *LESIONS)
        )

    def home(self) -> dict:
        """Identity of the cache folder."""
        return {**super().home(), "lesions": LESION_VERSION}

    def key(self, row) -> str:
        """Hash of all settings of the case of `row`."""
        lesion = {"index": self.index(row), "lesion": lesion_of(row), "lesions": LESION_VERSION}
        return case_key({**self.describe(), **lesion})

    def disease(self, row) -> Disease:
        """The lesion of a row, alone."""
        return draw_lesion(lesion_of(row), self.index(row), self.population.seed)

    def index(self, row) -> int:
        """Index in the population of the phantom of a row."""
        return phantom_index({"id": row["patient"]})

    def places(self, row, lesion: str) -> Iterator[Float[np.ndarray, "d h w"]]:
        """The phantom of a row with the lesion at each of its places, in HU on the grid of the case."""
        for disease in candidates(lesion):
            yield self.render(self.index(row), disease).hu.round()
