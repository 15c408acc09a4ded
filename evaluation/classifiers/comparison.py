"""Classifiers on the same cases: AUC, decisions, calibration, and one pre-specified comparison."""

import numpy as np
import pandas as pd
from scipy.special import expit

from common.errors import UserError
from dataset.imaging.geometry import FRONTAL_VIEWS
from evaluation.classifiers.hypotheses import interval, non_inferiority, others, primary
from evaluation.statistics.binary_metrics import decision_table, wilson
from evaluation.statistics.delong import Areas, areas, bootstrap_areas
from evaluation.statistics.patient_bootstrap import DRAWS, bootstrap_mean
from evaluation.statistics.platt import brier, fit_recalibration, reliability
from evaluation.statistics.roc import auc, expected_half_width, sensitive_threshold, youden_threshold

COLUMNS = ("fold", "part", "id", "patient", "label", "view", "xray_source")
FEW = 10  # cases of a class in a test part below which its AUC says little
SHOWS_XRAY = ("xray", "generated", "ct on generated")  # inputs whose result is a claim about X-rays


def analyse(
    scores: pd.DataFrame,
    inputs: dict[str, str],
    margin: float | None = None,
    sensitivity: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict:
    """The complete comparison as plain JSON.

    Args:
        scores: a row a case of the parts `val` and `test` of each fold: `COLUMNS`, and a column of logits for each
            classifier.
        inputs: of the classifiers, by column: `ct`, `xray`, `generated`, `ct on generated` or `metadata`.
        margin: of AUC, for non-inferiority of generated volumes to CTPA; None tests none.
        sensitivity: that the second threshold reaches on validation cases.
        draws, seed: of the bootstrap over patients.

    Raises:
        UserError: a repeated case, a score that is not finite, a part without one of the classes, two classifiers of
            generated volumes, a margin that cannot be.
    """
    names = list(inputs)
    _check(scores, names, inputs, margin)
    test = scores[scores.part == "test"].reset_index(drop=True)
    labels, patients, folds = test.label.to_numpy(), test.patient.to_numpy(dtype=str), test.fold.to_numpy()
    table = test[names].to_numpy(dtype=np.float64).T
    found = areas(table, labels, patients, folds)
    drawn = bootstrap_areas(table, labels, patients, folds, draws, seed)
    validation = {name: _validation_auc(scores, name) for name in names}
    decided = {name: _decided(scores, name, sensitivity) for name in names}
    classifiers = {}
    for index, name in enumerate(names):
        classifiers[name] = {
            "input": inputs[name],
            "validation_auc": validation[name],
            "auc": _area(found, drawn, index),
            "thresholds": _thresholds(test, decided[name], draws, seed),
            "calibration": _calibration(test, decided[name], draws, seed),
            "views": _by_view(test, name),
            "notes": _notes(test, inputs[name]),
        }
    return {
        "cases": _counts(test),
        "sensitivity": sensitivity,
        "primary": primary(found, drawn, names, inputs, validation),
        "comparisons": others(found, drawn, names, inputs, validation),
        "non_inferiority": non_inferiority(found, names, inputs, margin),
        "classifiers": classifiers,
        "definitions": definitions(sensitivity),
        "limits": _limits(test, inputs),
    }


def definitions(sensitivity: float) -> dict[str, str]:
    """Definition of each number."""
    return {
        "auc": "Mann-Whitney, a fold at a time, then the mean over folds; scores of different folds are never pooled",
        "interval": "DeLong (Obuchowski where a patient has several cases); a score interval where it is a point",
        "bootstrap": "percentile interval, patients drawn with replacement within each fold",
        "youden": "sensitivity + specificity is largest on the validation cases of the fold",
        "sensitive": f"the highest threshold with a sensitivity of {sensitivity:g} on the validation cases",
        "proportions": "decisions of all folds together, Wilson; patients resampled where they have several cases",
        "calibration": "Platt's recalibration fitted on the validation cases of the fold; Brier score on the test",
        "prevalence": "PPV and NPV hold for the prevalence of these cases only",
    }


def curves_of(scores: pd.DataFrame, name: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Scores and labels of the test cases of each fold."""
    test = scores[scores.part == "test"]
    return [(part[name].to_numpy(float), part.label.to_numpy()) for _, part in test.groupby("fold")]


def _check(scores: pd.DataFrame, names: list[str], inputs: dict[str, str], margin: float | None) -> None:
    repeated = scores[scores.duplicated(["fold", "id"])]
    if len(repeated):
        raise UserError(f"case {repeated.id.iloc[0]} stands twice in fold {repeated.fold.iloc[0]}; ids must be unique")
    tested = scores[scores.part == "test"]
    if tested.id.duplicated().any():
        raise UserError(
            f"case {tested.id[tested.id.duplicated()].iloc[0]} is tested in two folds; each is tested once"
        )
    for (fold, part), group in scores.groupby(["fold", "part"]):
        counts = {value: int((group.label == value).sum()) for value in (0, 1)}
        if min(counts.values()) == 0:
            raise UserError(
                f"fold {fold}, part {part}: {counts[1]} positive and {counts[0]} negative cases; each class needs at "
                "least one. Give more cases or fewer folds"
            )
    for name in names:
        wrong = scores[~np.isfinite(scores[name].to_numpy(dtype=float))]
        if len(wrong):
            raise UserError(f"{name}: the score of case {wrong.id.iloc[0]} is not finite; the classifier is broken")
    if sum(kind == "generated" for kind in inputs.values()) > 1:
        raise UserError("two classifiers of generated volumes: one comparison is stated beforehand, give one of them")
    if margin is not None and not 0.0 < margin < 0.5:
        raise UserError(f"margin={margin}: give an AUC difference between 0 and 0.5, or null")


def _validation_auc(scores: pd.DataFrame, name: str) -> float:
    parts = scores[scores.part == "val"].groupby("fold")
    return float(np.mean([auc(part[name].to_numpy(float), part.label.to_numpy()) for _, part in parts]))


def _decided(scores: pd.DataFrame, name: str, sensitivity: float) -> dict[str, np.ndarray]:
    """Decisions and probabilities of the test cases, by what the validation cases of their fold fixed."""
    test = scores[scores.part == "test"].reset_index(drop=True)
    made = {key: np.zeros(len(test)) for key in ("youden", "sensitive", "before", "after", "prevalence")}
    fixed = {"youden": [], "sensitive": []}
    for fold, part in scores[scores.part == "val"].groupby("fold"):
        logits, labels = part[name].to_numpy(float), part.label.to_numpy()
        mine = (test.fold == fold).to_numpy()
        shown = test.loc[mine, name].to_numpy(float)
        cuts = {
            "youden": youden_threshold(logits, labels),
            "sensitive": sensitive_threshold(logits, labels, sensitivity),
        }
        for key, cut in cuts.items():
            made[key][mine] = shown >= cut
            fixed[key].append(round(cut, 6))
        made["before"][mine] = expit(shown)
        made["after"][mine] = fit_recalibration(logits, labels)(shown)
        made["prevalence"][mine] = labels.mean()
    return {**made, "fixed": fixed}


def _area(found: Areas, drawn: np.ndarray, index: int) -> dict:
    low, high = found.interval(index)
    from_draws = interval(drawn[:, index])
    return {
        "mean": float(found.means[index]),
        "low": low,
        "high": high,
        "bootstrap": list(from_draws),
        "draws_without_a_class": int(np.isnan(drawn[:, index]).sum()),
        "folds": [float(area) for area in found.folds[:, index]],
    }


def _thresholds(test: pd.DataFrame, decided: dict, draws: int, seed: int) -> dict:
    labels, patients = test.label.to_numpy(), test.patient.to_numpy(dtype=str)
    return {
        key: {"logits": decided["fixed"][key], **decision_table(decided[key] == 1, labels, patients, draws, seed)}
        for key in ("youden", "sensitive")
    }


def _calibration(test: pd.DataFrame, decided: dict, draws: int, seed: int) -> dict:
    labels, patients = test.label.to_numpy(), test.patient.to_numpy(dtype=str)
    errors = {key: brier(decided[key], labels) for key in ("before", "after", "prevalence")}
    said = {key: bootstrap_mean(error, patients, draws, seed).as_dict() for key, error in errors.items()}
    bins = {key: reliability(decided[key], labels) for key in ("before", "after")}
    return {"brier": said, "reliability": bins}


def _by_view(test: pd.DataFrame, name: str) -> dict[str, dict | None]:
    """AUC of the cases of each frontal view, over the folds that hold both classes of it; None where none does."""
    view = test["view"].astype(str).str.split(";").str[0]
    found = {}
    for wanted in FRONTAL_VIEWS:
        part = test[view == wanted]
        both = [fold for fold, group in part.groupby("fold") if group.label.nunique() == 2]
        part = part[part.fold.isin(both)]
        if not both:
            found[wanted] = None
            continue
        area = areas(part[[name]].to_numpy(float).T, part.label.to_numpy(), part.patient.to_numpy(str), part.fold)
        low, high = area.interval(0)
        counts = {"cases": len(part), "positives": int(part.label.sum()), "folds": len(both)}
        found[wanted] = {"mean": float(area.means[0]), "low": low, "high": high, **counts}
    return found


def _notes(test: pd.DataFrame, kind: str) -> list[str]:
    if kind not in SHOWS_XRAY:
        return []
    sources = test.xray_source.value_counts().to_dict()
    contrast, plain, notes = sources.get("drr_contrast", 0), sources.get("drr", 0), []
    if contrast:
        notes.append(f"not X-ray evidence: {contrast} of {len(test)} X-rays are DRRs of a contrast CT")
    if plain:
        notes.append(f"{plain} of {len(test)} X-rays are DRRs, not films")
    return notes


def _counts(test: pd.DataFrame) -> dict:
    positives = int(test.label.sum())
    low, high = wilson(positives, len(test))
    return {
        "test": len(test),
        "patients": int(test.patient.nunique()),
        "positives": positives,
        "prevalence": {"mean": positives / len(test), "low": low, "high": high},
        "folds": int(test.fold.nunique()),
    }


def _limits(test: pd.DataFrame, inputs: dict[str, str]) -> list[str]:
    said = ["Intervals cover the choice of test patients, not the choice of training cases or seeds."]
    smallest = min(int((part.label == v).sum()) for _, part in test.groupby("fold") for v in (0, 1))
    if smallest < FEW:
        said.append(f"Few cases: {smallest} of the rarer class in a test part; its AUC says little.")
    folds = test.fold.nunique()
    positives, negatives = (int((test.label == v).sum() / folds) for v in (1, 0))
    if min(positives, negatives) > 0:
        width = expected_half_width(0.8, positives, negatives, folds)
        said.append(f"With these counts an AUC of 0.8 has an interval of about ±{width:.2f}.")
    if "metadata" not in inputs.values():
        said.append("No row without a picture: view, age, sex and hours do not differ between the training cases.")
    if folds > 1 and "generated" in inputs.values():
        said.append(
            "Generators of training cases had the CTs, never the labels, of this fold's test patients in theirs."
        )
    return said
