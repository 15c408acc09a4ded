"""Calibration cases: phantoms that no split contains, or a split of real data that was set aside."""

import numpy as np
from omegaconf import OmegaConf

from common.errors import UserError
from dataset.manifest.table import SPLITS


class FirstCases:
    """The first `count` cases of a `CaseDataset`, None = all, or of the first case of each of its patients."""

    def __init__(self, cases, count: int | None, one_per_patient: bool = False):
        again = cases.rows["patient"].astype(str).duplicated().to_numpy() & one_per_patient
        self._chosen = np.flatnonzero(~again)[:count].tolist()
        self._cases, self.rows = cases, cases.rows.iloc[self._chosen]

    def case(self, index: int) -> dict:
        """The case at a position among the chosen ones."""
        return self._cases.case(self._chosen[index])

    def __len__(self) -> int:
        return len(self.rows)


def calibration_source(source: dict, split: str | None, cases: int, first: int) -> dict | None:
    """Config node of a source whose test split contains the calibration cases; None if they are a `split` of the data.

    `source` is the node `dataset.source`; without `split` it gets `cases` phantoms from index `first`. UserError for
    real data without a split, and for phantoms of the test split.
    """
    if split is not None:
        if split not in SPLITS:
            raise UserError(f"calibration_split={split}: choose train, val or test")
        return None
    if "population" not in source:
        raise UserError("calibration_split: missing; name a split of these data, neither trained on nor tested on")
    test_from = source["population"]["test_from"]
    if first + cases > test_from and first < test_from + source["population"]["test"]:
        raise UserError(
            f"calibration_from={first}: {cases} phantoms from there overlap the test phantoms from {test_from}"
        )
    return OmegaConf.merge(source, {"population": {"test": cases, "test_from": first}})
