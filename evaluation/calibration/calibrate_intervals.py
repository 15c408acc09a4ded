"""Calibrates the bounds of a generator and measures what they cover on cases that had no part in it."""

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from common.errors import UserError
from common.files import sha256
from dataset.imaging.geometry import extent_mm
from evaluation.calibration.nonconformity import case_scores
from evaluation.generation.sample import sample_volumes
from evaluation.generation.xray_inputs import told_extents
from evaluation.intervals.organ_volumes import HeartRuler, fit_heart_ruler
from evaluation.intervals.prediction_intervals import DRAWN_AS, LEVEL, Bounds
from evaluation.intervals.quantities import ORGANS, UNITS
from evaluation.statistics.split_conformal import cases_needed, conformal_margin, coverage, samples_needed

LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)  # of the reliability plot, as far as the samples reach

log = logging.getLogger(__name__)


def calibrate(
    pipeline,
    calibration,
    test,
    train,
    checkpoint: Path,
    samples: int,
    level: float = LEVEL,
    share: float = 0.9,
    seed: int = 0,
    batch_size: int = 16,
    population: dict | None = None,
) -> tuple[Bounds, pd.DataFrame]:
    """Bounds out of the calibration cases and nothing else, their coverage on test cases, and the scores of both.

    Args:
        pipeline: `XrayToCTPipeline`, its sampler set.
        calibration, test: `CaseDataset`s without a patient in common; of a patient only the first case is taken.
        train: another, for the ruler of hearts.
        samples: for each X-ray; a level L needs `2 / (1 - L)`.
        population: what the file says of the calibration cases.

    Raises:
        UserError: too few samples or cases for the level, a patient in both sets.
    """
    check_settings(samples, level, share)
    chosen = {"calibration": first_cases(calibration), "test": first_cases(test)}
    check_cases(calibration, test, chosen, level)
    levels = sorted({x for x in LEVELS if samples >= samples_needed(x)} | {level})
    ruler = fit_heart_ruler(train, pipeline.window)
    scores = pd.concat(
        [
            scores_of(pipeline, cases, chosen[part], samples, levels, share, seed, batch_size, ruler).assign(part=part)
            for part, cases in (("calibration", calibration), ("test", test))
        ],
        ignore_index=True,
    )
    margins = {x: margins_of(scores[scores.part == "calibration"], x) for x in levels}
    measured = scores[scores.part == "test"]
    poses = torch.stack([calibration.case(i)["pose"] for i in chosen["calibration"]])
    bounds = Bounds(
        checkpoint={"file": checkpoint.name, "sha256": sha256(checkpoint)},
        drawn={key: pipeline.describe().get(key) for key in DRAWN_AS} | {"samples": samples},
        level=level,
        share=share,
        margins=margins[level],
        coverage={q: entry["after"] | {"width": entry["width"]} for q, entry in _covered(measured, level, margins)},
        reliability=[
            {"quantity": q, "level": x, "before": entry["before"], "after": entry["after"]}
            for x in levels
            for q, entry in _covered(measured, x, margins)
        ],
        population={
            **(population or {}),
            "calibration_cases": len(chosen["calibration"]),
            "test_cases": len(chosen["test"]),
            "poses_known": not bool(poses.isnan().any()),
            "seed": seed,
        },
        heart=None if ruler is None else ruler.describe(),
    )
    return bounds, scores


def check_settings(samples: int, level: float, share: float) -> None:
    """Refuses what no interval can be made of, before an hour of generation.

    Raises:
        UserError: naming the key.
    """
    for key, value in (("level", level), ("share", share)):
        if not 0.0 < value < 1.0:
            raise UserError(f"{key}={value:g}: give a number between 0 and 1, such as 0.9")
    if samples < samples_needed(level):
        raise UserError(
            f"samples={samples}: an interval of level {level:g} needs at least {samples_needed(level)} samples; "
            f"draw more, or set a lower level"
        )


def first_cases(cases) -> list[int]:
    """Positions of the first case of each patient: cases of one patient are not exchangeable with a new patient's."""
    chosen = np.flatnonzero(~cases.rows["patient"].astype(str).duplicated().to_numpy()).tolist()
    if len(chosen) < len(cases):
        log.warning("%d cases of %d patients: of each patient the first is taken", len(cases), len(chosen))
    return chosen


def check_cases(calibration, test, chosen: dict[str, list[int]], level: float) -> None:
    """Refuses too few calibration cases, and patients in both sets.

    Raises:
        UserError: naming what is missing, or a patient.
    """
    if len(chosen["calibration"]) < cases_needed(level):
        raise UserError(
            f"calibration: {len(chosen['calibration'])} patients; the level {level:g} needs at least "
            f"{cases_needed(level)}"
        )
    both = set(calibration.rows["patient"].astype(str)) & set(test.rows["patient"].astype(str))
    if both:
        raise UserError(
            f"patient {min(both)} is among calibration and test cases; coverage would be measured on what it was "
            "made of"
        )


def scores_of(
    pipeline,
    cases,
    chosen: Sequence[int],
    samples: int,
    levels: Sequence[float],
    share: float,
    seed: int,
    batch_size: int,
    ruler: HeartRuler | None,
) -> pd.DataFrame:
    """`id, patient` and the rows of `case_scores` of every case."""
    small = [{k: v for k, v in cases.case(i).items() if k in ("xray", "pose", "spacing")} for i in chosen]
    ids = [str(cases.rows.iloc[i]["id"]) for i in chosen]
    patients = [str(cases.rows.iloc[i]["patient"]) for i in chosen]
    xrays = torch.stack([case["xray"].float().unsqueeze(1) for case in small])
    poses = torch.stack([case["pose"] for case in small])
    size, rows = pipeline.volume_size, []
    own = torch.tensor([extent_mm(size, case["spacing"]) for case in small])
    extents = told_extents(poses, own, pipeline)
    for part, volumes in sample_volumes(pipeline, xrays, poses, ids, samples, batch_size, seed, extents):
        for index, drawn in zip(part, volumes, strict=True):
            spacing = tuple(float(e) / n for e, n in zip(extents[index], size, strict=True))
            case = cases.case(chosen[index])  # read again: all true volumes together may not fit
            found = case_scores(drawn, case, spacing, pipeline.window, levels, share, ruler)
            rows += [{"id": ids[index], "patient": patients[index]} | row for row in found]
    return pd.DataFrame(rows)


def margins_of(scores: pd.DataFrame, level: float) -> dict[str, dict]:
    """Margins of a level from calibration scores; a quantity that too few of the cases have gets none.

    The ends of an organ's interval each miss half as often as the whole may, so that an estimate that is always too
    large or too small costs its width once.
    """
    found = {}
    for quantity, rows in scores[scores.level == level].groupby("quantity", sort=False):
        one_end = 0.5 + level / 2.0 if quantity in ORGANS else level
        if len(rows) < cases_needed(one_end, tails=1):
            log.warning("%s: %d calibration cases have it, too few for bounds", quantity, len(rows))
            continue
        ends = {
            # rounded outward: the case that sets the margin has to stay inside
            end: math.ceil(conformal_margin(rows[column].to_numpy(), one_end) * 1e4) / 1e4
            for end, column in (("low", "below"), ("high", "above"))
        }
        found[quantity] = ends | {"cases": len(rows), "unit": UNITS[quantity]}
    return found


def covered_by(scores: pd.DataFrame, margin: dict | None) -> np.ndarray:
    """Which cases of one quantity and level lie inside; without a margin, inside the interval of the samples alone."""
    low, high = (0.0, 0.0) if margin is None else (margin["low"], margin["high"])
    return ((scores.below <= low) & (scores.above <= high)).to_numpy()


def _covered(scores: pd.DataFrame, level: float, margins: dict[float, dict]):
    for quantity, margin in margins[level].items():
        rows = scores[(scores.level == level) & (scores.quantity == quantity)]
        if len(rows):
            width = float(rows.width.mean()) + margin["low"] + margin["high"]
            yield (
                quantity,
                {
                    "before": coverage(covered_by(rows, None)),
                    "after": coverage(covered_by(rows, margin)),
                    "width": round(width, 3),
                },
            )
