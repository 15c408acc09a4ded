"""Split-conformal calibration of prediction intervals, and their coverage on test cases of other patients."""

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from common.errors import UserError
from common.files import sha256
from ddpm.latent.decoder_residual import with_residual
from evaluation.calibration.evidence_errors import evidence_errors, fit_evidence
from evaluation.calibration.nonconformity import case_scores
from evaluation.calibration.region_accuracy import region_accuracy, region_counts
from evaluation.generation.model_inputs import ModelInputs
from evaluation.generation.sample import Sampling, compared_volumes, warn_of_contradictions
from evaluation.intervals.input_shift import LEVEL as SHIFT_LEVEL
from evaluation.intervals.input_shift import InputShift, fit_input_shift
from evaluation.intervals.organ_volumes import HeartVolumeRegressor, fit_heart_regressor
from evaluation.intervals.prediction_intervals import LEVEL, SAMPLED_WITH, PredictionIntervals
from evaluation.intervals.quantities import ORGANS, UNITS
from evaluation.statistics.split_conformal import cases_needed, conformal_margin, coverage, coverage_p, samples_needed

LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)  # of the reliability plot, where the number of samples allows them

log = logging.getLogger(__name__)


class CaseResults(NamedTuple):
    """What the samples of cases say: one entry a case, in the table some rows."""

    table: pd.DataFrame  # `id, patient` and the rows of `case_scores`
    regions: list[dict]  # `region_counts`
    chi2: list[float | None]  # of the first predictions (`evaluation.generation.agreement`)
    evidence: list[np.ndarray | None]  # `evidence_errors`


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
    """Prediction intervals from the calibration cases with their coverage on test cases, and the scores of both.

    Raises UserError for too few samples or cases for the level, and for a patient in both sets.

    Args:
        pipeline: `XrayToCTPipeline` with its sampler.
        calibration, test: `CaseDataset`s without a common patient; the first case of each patient is used.
        train: `CaseDataset` for the fits of heart volume regressor and test of input shift.
        sampling: at least `2 / (1 - level)` samples per X-ray.
        level, share: as in `PredictionIntervals`.
        population: data set, version and split of the calibration cases.
    """
    check_settings(sampling.samples, level, share)
    chosen = {"calibration": first_cases(calibration), "test": first_cases(test)}
    check_cases(calibration, test, chosen, level)
    levels = sorted({x for x in LEVELS if sampling.samples >= samples_needed(x)} | {level})
    heart = fit_heart_regressor(train, pipeline.window)
    found = {
        part: scores_of(pipeline, cases, chosen[part], sampling, levels, share, heart)
        for part, cases in (("calibration", calibration), ("test", test))
    }
    shift = fit_input_shift(train, calibration, chosen["calibration"], found["calibration"].chi2)
    if shift is None:
        log.warning("%d training X-rays: too few for the test whether an X-ray is like the calibration's", len(train))
    held = _withheld(shift, [test.case(i)["xray"] for i in chosen["test"]], found["test"].chi2)
    scores = pd.concat([one.table.assign(part=part) for part, one in found.items()], ignore_index=True)
    patients = test.rows["patient"].iloc[chosen["test"]].astype(str).to_numpy()
    evidence = fit_evidence(found["calibration"].evidence, found["test"].evidence, patients, sampling.seed)
    if evidence is None:
        log.warning("no curve of evidence: it needs 4 samples and a model with the spread of training volumes")
    margins = {x: margins_of(scores[scores.part == "calibration"], x) for x in levels}
    measured = {x: _coverage(scores[scores.part == "test"], x, margins[x]) for x in levels}
    intervals = PredictionIntervals(
        checkpoint={"file": checkpoint.name, "sha256": sha256(checkpoint)},
        drawn={key: pipeline.describe().get(key) for key in SAMPLED_WITH} | {"samples": sampling.samples},
        level=level,
        share=share,
        margins=margins[level],
        coverage={q: entry["after"] | {"width": entry["width"]} for q, entry in measured[level].items()},
        reliability=[
            {"quantity": q, "level": x, "before": entry["before"], "after": entry["after"]}
            for x in levels
            for q, entry in measured[x].items()
        ],
        population={
            **(population or {}),
            "calibration_cases": len(chosen["calibration"]),
            "test_cases": len(chosen["test"]),
            "poses_known": not any(calibration.case(i)["pose"].isnan().any() for i in chosen["calibration"]),
            "seed": sampling.seed,
            "regions": region_accuracy(found["calibration"].regions),
            "withheld": held,
            "evidence": evidence,
        },
        heart=heart and asdict(heart),
        shift=shift and asdict(shift),
    )
    return intervals, scores


def check_settings(samples: int, level: float, share: float) -> None:
    """Raises UserError for a level or share outside 0 to 1, and for too few samples for the level."""
    for key, value in (("level", level), ("share", share)):
        if not 0.0 < value < 1.0:
            raise UserError(f"{key}={value:g}: give a number between 0 and 1, such as 0.9")
    if samples < samples_needed(level):
        needed = f"an interval of level {level:g} needs at least {samples_needed(level)} samples"
        raise UserError(f"samples={samples}: {needed}; draw more, or set a lower level")


def first_cases(cases) -> list[int]:
    """Positions of the first case of each patient; several would not be exchangeable with new patients."""
    chosen = np.flatnonzero(~cases.rows["patient"].astype(str).duplicated().to_numpy()).tolist()
    if len(chosen) < len(cases):
        log.warning("%d cases of %d patients: the first case of each patient is used", len(cases), len(chosen))
    return chosen


def check_cases(calibration, test, chosen: dict[str, list[int]], level: float) -> None:
    """Raises UserError for too few calibration patients, and for a patient in both sets."""
    count, needed = len(chosen["calibration"]), cases_needed(level)
    if count < needed:
        raise UserError(f"calibration: {count} patients; the level {level:g} needs at least {needed}")
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
) -> CaseResults:
    """The samples of the chosen cases beside their truths, batch by batch."""
    inputs = ModelInputs.of_cases((cases.case(i) for i in chosen), pipeline)
    ids, patients = (cases.rows[name].iloc[chosen].astype(str).tolist() for name in ("id", "patient"))
    rows, counts, chi2, errors = [], [], [], []
    antithetic = bool(pipeline.describe().get("antithetic"))
    for part, volumes, compared in compared_volumes(pipeline, inputs, ids, sampling):
        chi2 += [one.first for one in compared]
        warn_of_contradictions(pipeline, [ids[i] for i in part], compared)
        predictive = with_residual(pipeline, volumes, [ids[i] for i in part], sampling.seed)
        for index, samples, drawn in zip(part, volumes, predictive, strict=True):
            spacing = tuple(float(e) / n for e, n in zip(inputs.extents[index], pipeline.volume_size, strict=True))
            case = cases.case(chosen[index])  # read again: all true volumes together may not fit into memory
            found = case_scores(samples, case, spacing, pipeline.window, levels, share, heart, drawn)
            rows += [{"id": ids[index], "patient": patients[index]} | row for row in found]
            counts.append(region_counts(samples.mean(dim=0), case, spacing, pipeline.window))
            measured = pipeline.training_spread, samples, drawn, case, pipeline.window, antithetic
            errors.append(evidence_errors(*measured))
    return CaseResults(pd.DataFrame(rows), counts, chi2, errors)


def margins_of(scores: pd.DataFrame, level: float) -> dict[str, dict]:
    """Conformal margins of a level by quantity, without quantities of too few calibration cases.

    Each end of an organ's interval may miss half as often as the interval, so a bias shifts the interval instead of
    widening it on both sides.
    """
    found = {}
    for quantity, rows in scores[scores.level == level].groupby("quantity", sort=False):
        one_end = 0.5 + level / 2.0 if quantity in ORGANS else level
        if len(rows) < cases_needed(one_end, tails=1):
            log.warning("%s: in %d calibration cases, too few for an interval", quantity, len(rows))
            continue
        ends = {
            # rounded outward, so that the case that determines the margin stays inside
            end: math.ceil(conformal_margin(rows[column].to_numpy(), one_end) * 1e4) / 1e4
            for end, column in (("low", "below"), ("high", "above"))
        }
        found[quantity] = ends | {"cases": len(rows), "unit": UNITS[quantity]}
    return found


def covered_by(scores: pd.DataFrame, margin: dict | None) -> np.ndarray:
    """Which cases of one quantity and level lie inside the interval; without margin that of the samples."""
    low, high = (0.0, 0.0) if margin is None else (margin["low"], margin["high"])
    return ((scores.below <= low) & (scores.above <= high)).to_numpy()


def _withheld(shift: InputShift | None, xrays: list, chi2: list[float | None]) -> dict | None:
    """The share of X-rays that lose their interval by the test, as `coverage` gives it; None without a test."""
    if shift is None or not xrays:
        return None
    return coverage(np.array([shift.p_value(*one) < SHIFT_LEVEL for one in zip(xrays, chi2, strict=True)]))


def _coverage(scores: pd.DataFrame, level: float, margins: dict[str, dict]) -> dict[str, dict]:
    found = {}
    for quantity, margin in margins.items():
        rows = scores[(scores.level == level) & (scores.quantity == quantity)]
        if len(rows):
            width = round(float(rows.width.mean()) + margin["low"] + margin["high"], 3)
            before, after = (coverage(covered_by(rows, one)) for one in (None, margin))
            ends = 2 if quantity in ORGANS else 1
            after["p"] = coverage_p(after["covered"], len(rows), margin["cases"], level, ends)
            found[quantity] = {"before": before, "after": after, "width": width}
    return found
