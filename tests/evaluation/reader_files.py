"""Small reader studies for tests; not a test file."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd

from dataset.imaging.hu_window import Window
from dataset.imaging.volume import Volume
from evaluation.readers.create import make_study
from evaluation.readers.design import StudyDesign
from evaluation.readers.questions import parse_questions

QUESTIONS = [
    {"name": "realism", "text": "How real?", "kind": "ordinal", "choices": ["1", "2", "3", "4"]},
    {"name": "origin", "text": "Real?", "kind": "real_or_generated", "choices": ["real", "generated"]},
    {"name": "pe", "text": "Embolism?", "kind": "pe_confidence", "choices": ["1", "2", "3", "4", "5"]},
]


def chest(arm: str, index: int) -> Volume:
    """A volume of -1000 HU with a block whose HU identify its arm and case."""
    hu = np.full((6, 8, 10), -1000.0, dtype=np.float32)
    hu[1:5, 2:6, 2:8] = {"real": 0.0, "autoencoder": 100.0, "generated": 200.0}[arm] + index
    return Volume(hu, (4.0, 3.0, 3.0))


def cases(count: int) -> pd.DataFrame:
    names = range(count)
    return pd.DataFrame(
        {
            "id": [f"case_{i}" for i in names],
            "patient": [f"patient_{i}" for i in names],
            "label": [i % 2 for i in names],
        }
    )


def make_small_study(
    folder: Path, readers: int = 2, cases_: int | None = None, seed: int | None = 0, **settings
) -> dict:
    count = settings.pop("cases", 9) if cases_ is None else cases_
    questions = parse_questions(QUESTIONS)
    window = Window(-1000.0, 1000.0)
    names = {field.name for field in fields(StudyDesign)} & set(settings)
    design = StudyDesign(readers, **{name: settings.pop(name) for name in names})
    return make_study(cases(count), chest, window, folder, questions, design, seed=seed, **settings)
