"""Small reader studies for tests; not a test file."""

from pathlib import Path

import numpy as np
import pandas as pd

from dataset.imaging.hu_window import Window
from dataset.imaging.volume import Volume
from evaluation.readers.create import make_study
from evaluation.readers.design import StudyDesign
from evaluation.readers.power_simulation import CASE_SPREAD, READER_SPREAD
from evaluation.readers.questions import IDENTITY, PE, parse_questions

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


def case_rows(count: int) -> pd.DataFrame:
    """Patients with one case each, of which every second one is positive."""
    return pd.DataFrame([{"id": f"case_{i}", "patient": f"patient_{i}", "label": i % 2} for i in range(count)])


def make_small_study(
    folder: Path, readers: int = 2, cases: int = 9, seed: int | None = 0, volumes=chest, **design
) -> dict:
    """A study with the volumes of `volumes(arm, index)`."""
    settings = {"design": StudyDesign(readers, **design), "seed": seed}
    questions, window = parse_questions(QUESTIONS), Window(-1000.0, 1000.0)
    return make_study(case_rows(cases), volumes, window, folder, questions, **settings)


def simulate_answers(
    items, orders: dict[str, list[str]], questions, shifts: dict[str, float], pe_shift: float = 0.0, seed: int = 0
) -> pd.DataFrame:
    """Answers as from `study_folder.read_answers`, of readers whose impression of an arm is moved by `shifts[arm]`.

    A higher impression is a better answer, or `real`; `pe_shift` moves the PE confidence of positive cases.
    """
    generator = np.random.default_rng(seed)
    by_code, rows = {item.item: item for item in items}, []
    effect = {item.item: CASE_SPREAD * generator.standard_normal() for item in items}
    for reader, order in orders.items():
        own, seen = READER_SPREAD * generator.standard_normal(), {}
        for position, code in enumerate(order, start=1):
            item = by_code[code]
            seen[code] = seen.get(code, 0) + 1
            row = {"reader": reader, "position": position, "item": code, "reading": seen[code]}
            for question in questions:
                impression = effect[code] + own + generator.standard_normal()
                impression += pe_shift * (item.label == 1) if question.kind == PE else shifts.get(item.arm, 0.0)
                if question.kind == IDENTITY:
                    row[question.name] = 1.0 if impression > 0 else 2.0
                else:
                    edges = np.linspace(-1.2, 1.2, len(question.choices) - 1)
                    row[question.name] = float(np.searchsorted(edges, impression) + 1)
            rows.append(row)
    return pd.DataFrame(rows)
