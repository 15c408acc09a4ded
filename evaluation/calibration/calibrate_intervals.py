"""Split-conformal calibration of prediction intervals, and their coverage on test cases of other patients."""

import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from common.errors import UserError
from common.files import sha256
from evaluation.calibration.nonconformity import case_scores
from evaluation.generation.model_inputs import ModelInputs
from evaluation.generation.sample import Sampling, sample_volumes
from evaluation.intervals.organ_volumes import HeartVolumeRegressor, fit_heart_regressor
from evaluation.intervals.prediction_intervals import DRAWN_AS, LEVEL, PredictionIntervals
from evaluation.intervals.quantities import ORGANS, UNITS
from evaluation.statistics.split_conformal import cases_needed, conformal_margin, coverage, samples_needed

LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)  # of the reliability plot, where the number of samples allows them

log = logging.getLogger(__name__)


def calibrate(
    pipeline,
    calibration,
    test,
    train,
    checkpoint: Path,
    sampling: Sampling,
    level: float = LEVEL,
    share: float = 0.9,
    population: dict | None = None,
) -> tuple[PredictionIntervals, pd.DataFrame]:
    """Prediction intervals from the calibration cases, with their coverage on test cases, and the scores of both.

    Args:
        pipeline: `XrayToCTPipeline`, its sampler set.
        calibration, test: `CaseDataset`s without a patient in common; the first case of each patient is used.
        train: `CaseDataset` that the heart volume regressor is fitted on.
        sampling: with at least `2 / (1 - level)` samples per X-ray.
        level, share: as in `PredictionIntervals`.
        population: data set, version and split of the calibration cases.

    Raises:
        UserError: too few samples or cases for the level, or a patient in both sets.
    """
    check_settings(sampling.samples, level, share)
    chosen = {"calibration": first_cases(calibration), "test": first_cases(test)}
    check_cases(calibration, test, chosen, level)
    levels = sorted({x for x in LEVELS if sampling.samples >= samples_needed(x)} | {level})
    heart = fit_heart_regressor(train, pipeline.window)
    scores = pd.concat(
        [
            scores_of(pipeline, cases, chosen[part], sampling, levels, share, heart).assign(part=part)
            for part, cases in (("calibration", calibration), ("test", test))
        ],
        ignore_index=True,
    )
    margins = {x: margins_of(scores[scores.part == "calibration"], x) for x in levels}
    measured = scores[scores.part == "test"]
    intervals = PredictionIntervals(
        checkpoint={"file": checkpoint.name, "sha256": sha256(checkpoint)},
        drawn={key: pipeline.describe().get(key) for key in DRAWN_AS} | {"samples": sampling.samples},
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
            "poses_known": not any(calibration.case(i)["pose"].isnan().any() for i in chosen["calibration"]),
            "seed": sampling.seed,
        },
        heart=None if heart is None else heart.describe(),
    )
    return intervals, scores


def check_settings(samples: int, level: float, share: float) -> None:
    """Checks the settings before the volumes are generated.

    Raises:
        UserError: a level or share outside of 0 to 1, or too few samples for the level.
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
    """Positions of the first case of each patient; more of a patient would not be exchangeable with new patients."""
    chosen = np.flatnonzero(~cases.rows["patient"].astype(str).duplicated().to_numpy()).tolist()
    if len(chosen) < len(cases):
        log.warning("%d cases of %d patients: the first case of each patient is used", len(cases), len(chosen))
    return chosen


def check_cases(calibration, test, chosen: dict[str, list[int]], level: float) -> None:
    """Checks that the calibration patients are enough and none of them is a test patient.

    Raises:
        UserError: naming the number that is needed, or a patient.
    """
    if len(chosen["calibration"]) < cases_needed(level):
        raise UserError(
            f"calibration: {len(chosen['calibration'])} patients; the level {level:g} needs at least "
            f"{cases_needed(level)}"
        )
    both = set(calibration.rows["patient"].astype(str)) & set(test.rows["patient"].astype(str))
    if both:
        raise UserError(f"patient {min(both)} is among calibration and test cases; coverage needs other patients")


def scores_of(
    pipeline,
    cases,
    chosen: Sequence[int],
    sampling: Sampling,
    levels: Sequence[float],
    share: float,
    heart: HeartVolumeRegressor | None,
) -> pd.DataFrame:
    """`id, patient` and the rows of `case_scores` for each case."""
    inputs = ModelInputs.of_cases((cases.case(i) for i in chosen), pipeline)
    ids, patients = (cases.rows[name].iloc[chosen].astype(str).tolist() for name in ("id", "patient"))
    rows = []
    for part, volumes in sample_volumes(pipeline, inputs, ids, sampling):
        for index, samples in zip(part, volumes, strict=True):
            spacing = tuple(float(e) / n for e, n in zip(inputs.extents[index], pipeline.volume_size, strict=True))
            case = cases.case(chosen[index])  # read again: all true volumes together may not fit into memory
            found = case_scores(samples, case, spacing, pipeline.window, levels, share, heart)
            rows += [{"id": ids[index], "patient": patients[index]} | row for row in found]
    return pd.DataFrame(rows)


def margins_of(scores: pd.DataFrame, level: float) -> dict[str, dict]:
    """Conformal margins of a level by quantity; none for a quantity that too few calibration cases have.

    Each end of an organ's interval may miss half as often as the interval, so a biased estimate shifts the interval
    instead of widening it on both sides.
    """
    found = {}
    for quantity, rows in scores[scores.level == level].groupby("quantity", sort=False):
        one_end = 0.5 + level / 2.0 if quantity in ORGANS else level
        if len(rows) < cases_needed(one_end, tails=1):
            log.warning("%s: in %d calibration cases, too few for an interval", quantity, len(rows))
            continue
        ends = {
            # rounded outward: the case that sets the margin has to stay inside
            end: math.ceil(conformal_margin(rows[column].to_numpy(), one_end) * 1e4) / 1e4
            for end, column in (("low", "below"), ("high", "above"))
        }
        found[quantity] = ends | {"cases": len(rows), "unit": UNITS[quantity]}
    return found


def covered_by(scores: pd.DataFrame, margin: dict | None) -> np.ndarray:
    """Which cases of one quantity and level lie inside the interval, that of the samples alone without a margin."""
    low, high = (0.0, 0.0) if margin is None else (margin["low"], margin["high"])
    return ((scores.below <= low) & (scores.above <= high)).to_numpy()


def _covered(scores: pd.DataFrame, level: float, margins: dict[float, dict]) -> Iterator[tuple[str, dict]]:
    for quantity, margin in margins[level].items():
        rows = scores[(scores.level == level) & (scores.quantity == quantity)]
        if len(rows):
            before, after = (coverage(covered_by(rows, one)) for one in (None, margin))
            width = float(rows.width.mean()) + margin["low"] + margin["high"]
            yield quantity, {"before": before, "after": after, "width": round(width, 3)}
