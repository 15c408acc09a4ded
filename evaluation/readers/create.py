"""Creates a study: chooses cases, assigns them to arms, writes volumes under random codes, and the key."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from rich.progress import track

from common.errors import UserError
from dataset.imaging.hu_window import Window
from dataset.imaging.volume import Volume
from evaluation.readers import design as layout
from evaluation.readers.arms import common_grid, onto_grid
from evaluation.readers.design import ARMS, FEW_CASES, FEW_READERS, Item, StudyDesign
from evaluation.readers.power_simulation import expected_precision
from evaluation.readers.questions import PE, Question
from evaluation.readers.study_folder import key_folder, write_study, write_volume
from evaluation.readers.two_way_bootstrap import FEWEST


def make_study(
    cases: pd.DataFrame,
    volume_of: Callable[[str, int], Volume],
    window: Window,
    folder: Path,
    questions: Sequence[Question],
    design: StudyDesign = StudyDesign(),  # noqa: B008 (frozen)
    seed: int | None = None,
    key: str | Path | None = None,
    title: str = "",
    origin: dict | None = None,
) -> dict:
    """Writes the study and its key; returns the content of `study.json` without the items.

    Raises UserError if the folder already holds a study and if the design is impossible.

    Args:
        cases: columns id, patient, label, one row a case.
        volume_of: `(arm, index of the row) -> Volume`.
        window: HU window to which all volumes are clipped.
        seed: of all random choices; None draws one. Only the key holds it, since it reveals the arms.
        key: folder of the key; None = `<folder>-key`.
        origin: what generated the arms, for the key.
    """
    where = key_folder(folder, key)
    for path in (folder / "study.json", where / "key.json"):
        if path.exists():
            raise UserError(f"{path}: there is a study already; name another folder, nothing was overwritten")
    if design.readers < 1:
        raise UserError(f"readers={design.readers}: give at least 1")
    seed = secrets.randbits(63) if seed is None else int(seed)
    generator = np.random.default_rng(seed)
    pairs = layout.assign_arms(cases, design.per_arm, design.assignment, generator)
    place = {str(name): index for index, name in enumerate(cases["id"])}
    items = [
        Item(code, arm, name, str(cases["patient"].iloc[place[name]]), int(cases["label"].iloc[place[name]]))
        for code, (arm, name) in zip(layout.random_codes(len(pairs), generator), pairs, strict=True)
    ]
    orders = [
        {"reader": f"reader_{n:02d}", "order": layout.reading_order(items, design.repeat_share, generator)}
        for n in range(1, design.readers + 1)
    ]

    folder.parent.mkdir(parents=True, exist_ok=True)
    # The grid must fit all volumes, so all are generated before the first is written; scratch files save memory.
    with TemporaryDirectory(dir=folder.parent, prefix=".volumes_") as scratch:
        made = []
        for item in track(items, description="volumes"):
            volume, path = volume_of(item.arm, place[item.case]), Path(scratch) / f"{item.item}.npy"
            np.save(path, volume.hu)
            made.append(replace(volume, hu=np.load(path, mmap_mode="r")))
        size, grid = common_grid(made, design.spacing, design.crop)
        (folder / "volumes").mkdir(parents=True, exist_ok=True)
        for item, volume in zip(items, made, strict=True):
            write_volume(folder, item.item, onto_grid(volume, size, grid, window), grid)
    smallest = len(items) // len(ARMS)
    positives = min(sum(item.label == 1 for item in items if item.arm == arm) for arm in ARMS)
    asked = positives if any(question.kind == PE for question in questions) else None
    about = {
        "title": title or "Chest CT reader study",
        "window": [window.low, window.high],
        "volume_size": list(size),
        "spacing": list(grid),
        "questions": [asdict(question) for question in questions],
        "readers": orders,
        "repeats": len(orders[0]["order"]) - len(items),
        "arms": len(ARMS),
        "cases_per_arm": smallest,
        "assignment": design.assignment,
        "precision": expected_precision(design.readers, smallest, asked),
    }
    write_study(folder, where, about, items, seed, origin or {})
    return about | {"key": str(where)}


def forecast(about: dict) -> list[str]:
    """Expected precision of the study and warnings, one line each."""
    readers, cases, expected = len(about["readers"]), about["cases_per_arm"], about["precision"]
    lines = [
        f"{readers} readers, {about['arms']} arms of {cases} volumes, {about['repeats']} read twice; "
        f"{about['volume_size']} voxels of {[round(s, 3) for s in about['spacing']]} mm (D, H, W)"
    ]
    if expected["rate_half_width"] is None:
        lines.append(f"expected: no interval, which needs 2 readers and {FEWEST} volumes in each arm")
    else:
        lines.append(
            f"expected: 90 % interval of the real-or-generated rate ± {100 * expected['rate_half_width']:.0f} points; "
            f"truly indistinguishable volumes would be called indistinguishable (50 ± 10 %) in "
            f"{100 * expected['chance_of_equivalence']:.0f} % of such studies"
        )
    if expected["auc_half_width"] is not None:
        lines.append(f"expected: 95 % interval of the readers' PE AUC ± {expected['auc_half_width']:.2f}")
    if readers < FEW_READERS:
        lines.append(
            f"warning: readers={readers} is below {FEW_READERS}; the interval says little about other readers"
        )
    if cases < FEW_CASES:
        lines.append(f"warning: cases_per_arm={cases} is below {FEW_CASES}; little can be shown")
    return lines
