"""The design of a blinded study: patients by arm, random codes, a reading order for each reader, repeats."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from common.errors import UserError

ARMS = ("real", "autoencoder", "generated")
ARM_LABELS = {"real": "real CT", "autoencoder": "real CT through the autoencoder", "generated": "generated CT"}
FEW_READERS, FEW_CASES = 5, 50  # a smaller study shows little
ASSIGNMENTS = ("apart", "shared")


@dataclass(frozen=True)
class StudyDesign:
    """Size and layout of a study.

    Args:
        readers: number of readers.
        per_arm: volumes in each arm; None = as many as there are patients for.
        assignment: `apart` or `shared`, see `assign_arms`.
        repeat_share: share of the volumes that each reader sees twice, 0 to 1.
        spacing: mm (D, H, W) of all volumes; None = the coarsest of any volume.
        crop: voxels (D, H, W) of all volumes, around the centre; None = the largest that fits in all of them.
    """

    readers: int = 5
    per_arm: int | None = None
    assignment: str = "apart"
    repeat_share: float = 0.1
    spacing: Sequence[float] | None = None
    crop: Sequence[int] | None = None


@dataclass(frozen=True)
class Item:
    """One volume of the study: its random code, and its arm, case, patient and label, which only the key holds."""

    item: str
    arm: str
    case: str
    patient: str
    label: int


def assign_arms(
    cases: pd.DataFrame, per_arm: int | None, assignment: str, generator: np.random.Generator
) -> list[tuple[str, str]]:
    """`(arm, id)` of every volume of the study; `cases` has the columns id, patient, label.

    `apart` shows a patient in one arm only, so that no reader recognises a volume in another version; arms get the
    same share of positive labels as far as possible. `shared` shows every chosen case in all arms. Raises UserError
    for too few patients and an unknown assignment.
    """
    if assignment not in ASSIGNMENTS:
        raise UserError(f"assignment={assignment}: choose {' or '.join(ASSIGNMENTS)}")
    shown = cases.iloc[generator.permutation(len(cases))].drop_duplicates("patient")  # one case a patient
    shown = shown.iloc[np.argsort(-shown["label"].to_numpy(), kind="stable")]  # sorted by label, then assigned in turn
    per_case = len(ARMS) if assignment == "apart" else 1  # patients behind one volume of each arm
    most = len(shown) // per_case
    wanted = most if per_arm is None else int(per_arm)
    if not 1 <= wanted <= most:
        remedy = "give fewer or more cases" + ", or assignment=shared" * (assignment == "apart")
        raise UserError(
            f"cases_per_arm={per_arm}: {len(shown)} patients with assignment={assignment} allow 1 to {most}; {remedy}"
        )
    groups = wanted * per_case
    places = np.floor((np.arange(groups) + generator.random()) * len(shown) / groups).astype(int)
    chosen = [str(name) for name in shown["id"].iloc[places]]
    if assignment == "shared":
        return [(arm, name) for name in chosen for arm in ARMS]
    pairs = []
    for start in range(0, len(chosen), len(ARMS)):  # the next three patients go to the three arms
        pairs += zip(generator.permutation(ARMS), chosen[start : start + len(ARMS)], strict=True)
    return [(str(arm), name) for arm, name in pairs]


def random_codes(count: int, generator: np.random.Generator) -> list[str]:
    """Distinct codes in random order; they begin with a letter, so that no spreadsheet reads one as a number."""
    codes: dict[str, None] = {}
    while len(codes) < count:
        codes[f"v{generator.integers(2**28):07x}"] = None
    return list(codes)


def reading_order(items: Sequence[Item], repeat_share: float, generator: np.random.Generator) -> list[str]:
    """Codes in the order one reader sees them: every item once, a share of them twice.

    Versions of one patient, and an item and its repeat, are at least a quarter of the study apart where possible.
    Raises UserError for a share outside of 0 to 1.
    """
    if not 0.0 <= repeat_share <= 1.0:
        raise UserError(f"repeat_share={repeat_share:g}: give a share from 0 to 1")
    count, gap = len(items), max(1, len(items) // 4)
    codes = [item.item for item in _spread([items[i] for i in generator.permutation(count)], gap)]
    # An item of the last quarter cannot be repeated a quarter later, so it is repeated only if the share needs it.
    repeated = [*generator.permutation(count - gap), *(count - gap + generator.permutation(gap))]
    result = list(codes)
    for code in [codes[i] for i in repeated[: round(repeat_share * count)]]:
        place = result.index(code) + gap + 1
        result.insert(int(generator.integers(min(place, len(result)), len(result) + 1)), code)
    return result


def _spread(order: list[Item], gap: int) -> list[Item]:
    """The items reordered so that no patient repeats within `gap` items, where possible."""
    left, result = list(order), []
    while left:
        recent = {item.patient for item in result[-gap:]}
        place = next((i for i, item in enumerate(left) if item.patient not in recent), 0)
        result.append(left.pop(place))
    return result
