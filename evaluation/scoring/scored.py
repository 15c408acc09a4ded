"""The scores of files, and their writing, which a command begins after all files are read."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from evaluation.scoring.patient_table import write_tables
from evaluation.scoring.summary import LABELS, write_result


@dataclass(frozen=True)
class Scored:
    """Scores of one method.

    Attributes:
        protocol: as in `metrics.json`.
        scores: a row for each case and method.
        seed: of the bootstrap.
        by_patient: table of the patients; None without one.
        caption: of that table.
    """

    protocol: dict
    scores: pd.DataFrame
    seed: int = 0
    by_patient: pd.DataFrame | None = None
    caption: str = ""

    def write(self, output: Path) -> dict:
        """Writes `metrics.json` and `cases.csv`, as evaluation/compare.py reads them, and returns the first.

        With a table of patients also `table.csv`, `table.md` and `table.tex`.
        """
        if self.by_patient is not None:
            write_tables(output, self.by_patient, LABELS, self.caption)
        return write_result(output, self.protocol, self.scores, self.seed)
