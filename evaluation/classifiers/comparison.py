"""Classifiers on the same cases: AUC, decisions, calibration, and one pre-specified comparison."""

import numpy as np
import pandas as pd
from scipy.special import expit

from common.errors import UserError
from dataset.imaging.geometry import FRONTAL_VIEWS
from evaluation.classifiers.hypotheses import interval, non_inferiority, others, primary
from evaluation.statistics.binary_metrics import decision_table, wilson
from evaluation.statistics.delong import Areas, areas, bootstrap_areas
from evaluation.statistics.patient_bootstrap import DRAWS, METHOD, bootstrap_mean
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

    Raises UserError for a repeated case, a score that is not finite, a part without one of the classes, two
    classifiers of generated volumes and a margin outside of 0 to 0.5.

    Args:
        scores: a row a case of the parts `val` and `test` of each fold: `COLUMNS`, and a column of logits for each
            classifier.
        inputs: of the classifiers, by column: `ct`, `xray`, `generated`, `ct on generated` or `metadata`.
        margin: of AUC, for non-inferiority of generated volumes to CTPA; None tests none.
        sensitivity: that the second threshold reaches on validation cases.
        draws, seed: of the bootstrap over patients.
    """
    _check(scores, inputs, margin)
    test = scores[scores.part == "test"].reset_index(drop=True)
    labels, patients, folds = test.label.to_numpy(), test.patient.to_numpy(dtype=str), test.fold.to_numpy()
    table = test[list(inputs)].to_numpy(dtype=np.float64).T
    found = areas(table, labels, patients, folds)
    drawn = bootstrap_areas(table, labels, patients, folds, draws, seed)
    val = [part for _, part in scores[scores.part == "val"].groupby("fold")]
    validation = {n: float(np.mean([auc(p[n].to_numpy(float), p.label.to_numpy()) for p in val])) for n in inputs}
    classifiers = {}
    for index, (name, kind) in enumerate(inputs.items()):
        decided, fixed = _decided(test, val, name, sensitivity)
        errors = {key: brier(decided[key], labels) for key in ("before", "after", "prevalence")}
        classifiers[name] = {
            "input": kind,
            "validation_auc": validation[name],
            "auc": _area(found, drawn, index),
            "thresholds": {
                key: {"logits": cuts, **decision_table(decided[key] == 1, labels, patients, draws, seed)}
                for key, cuts in fixed.items()
            },
            "calibration": {
                "brier": {
                    k: bootstrap_mean(error, patients, draws, seed).within(0.0, 1.0).as_dict()
                    for k, error in errors.items()
                },
                "reliability": {key: reliability(decided[key], labels) for key in ("before", "after")},
            },
            "views": _by_view(test, name),
            "notes": _notes(test, kind),
        }
    positives = int(test.label.sum())
    low, high = wilson(positives, len(test))
    return {
        "cases": {
            "test": len(test),
            "patients": int(test.patient.nunique()),
            "positives": positives,
            "prevalence": {"mean": positives / len(test), "low": low, "high": high},
            "folds": int(test.fold.nunique()),
        },
        "sensitivity": sensitivity,
        "primary": primary(found, drawn, inputs, validation),
        "comparisons": others(found, drawn, inputs, validation),
        "non_inferiority": non_inferiority(found, inputs, margin),
        "classifiers": classifiers,
        "definitions": {
            "auc": "Mann-Whitney per fold, then the mean over folds; scores of different folds are never pooled",
            "interval": "DeLong (Obuchowski where a patient has several cases); a score interval where it is a point",
            "bootstrap": "percentile interval, patients drawn with replacement within each fold",
            "youden": "sensitivity + specificity is largest on the validation cases of the fold",
            "sensitive": f"the highest threshold with a sensitivity of {sensitivity:g} on the validation cases",
            "proportions": f"decisions of all folds together, Wilson; where patients have several cases {METHOD}",
            "calibration": "Platt's recalibration fitted on the validation cases of the fold; Brier score on the test",
            "prevalence": "PPV and NPV hold for the prevalence of these cases only",
        },
        "limits": _limits(test, inputs),
    }


def _check(scores: pd.DataFrame, inputs: dict[str, str], margin: float | None) -> None:
    repeated = scores[scores.duplicated(["fold", "id"])]
    if len(repeated):
        raise UserError(f"two rows of fold {repeated.fold.iloc[0]} have the id {repeated.id.iloc[0]}; keep one")
    tested = scores[scores.part == "test"].id
    if tested.duplicated().any():
        raise UserError(f"case {tested[tested.duplicated()].iloc[0]} is tested in two folds; test each case once")
    for (fold, part), group in scores.groupby(["fold", "part"]):
        positives = int((group.label == 1).sum())
        if not 0 < positives < len(group):
            raise UserError(
                f"fold {fold}, part {part}: {positives} positive and {len(group) - positives} negative cases; each "
                "class needs at least one. Give more cases or fewer folds"
            )
    for name in inputs:
        wrong = scores[~np.isfinite(scores[name].to_numpy(dtype=float))]
        if len(wrong):
            raise UserError(f"{name}: the score of case {wrong.id.iloc[0]} is not finite; the classifier is broken")
    if list(inputs.values()).count("generated") > 1:
        raise UserError("two classifiers of generated volumes: the primary comparison needs one; give one of them")
    if margin is not None and not 0.0 < margin < 0.5:
        raise UserError(f"margin={margin}: give an AUC difference between 0 and 0.5, or null")


def _decided(
    test: pd.DataFrame, val: list[pd.DataFrame], name: str, sensitivity: float
) -> tuple[dict[str, np.ndarray], dict[str, list[float]]]:
    """Decisions and probabilities of the test cases, and the thresholds, fixed on each fold's validation cases."""
    made = {key: np.zeros(len(test)) for key in ("youden", "sensitive", "before", "after", "prevalence")}
    fixed = {"youden": [], "sensitive": []}
    for part in val:
        logits, labels = part[name].to_numpy(float), part.label.to_numpy()
        mine = (test.fold == part.fold.iloc[0]).to_numpy()
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
    return made, fixed


def _area(found: Areas, drawn: np.ndarray, index: int) -> dict:
    low, high = found.interval(index)
    return {
        "mean": float(found.means[index]),
        "low": low,
        "high": high,
        "bootstrap": list(interval(drawn[:, index])),
        "draws_without_a_class": int(np.isnan(drawn[:, index]).sum()),
        "folds": [float(area) for area in found.folds[:, index]],
    }


def _by_view(test: pd.DataFrame, name: str) -> dict[str, dict | None]:
    """AUC of the cases of each frontal view, over the folds that hold both classes of it; None where none does."""
    view, found = test["view"].astype(str).str.split(";").str[0], {}
    for wanted in FRONTAL_VIEWS:
        part = test[view == wanted].groupby("fold").filter(lambda group: group.label.nunique() == 2)
        if part.empty:
            found[wanted] = None
            continue
        area = areas(part[[name]].to_numpy(float).T, part.label.to_numpy(), part.patient.to_numpy(str), part.fold)
        low, high = area.interval(0)
        counts = {"cases": len(part), "positives": int(part.label.sum()), "folds": int(part.fold.nunique())}
        found[wanted] = {"mean": float(area.means[0]), "low": low, "high": high, **counts}
    return found


def _notes(test: pd.DataFrame, kind: str) -> list[str]:
    if kind not in SHOWS_XRAY:
        return []
    contrast, plain = (int((test.xray_source == source).sum()) for source in ("drr_contrast", "drr"))
    notes = [f"not X-ray evidence: {contrast} of {len(test)} X-rays are DRRs of a contrast CT"] * (contrast > 0)
    return notes + [f"{plain} of {len(test)} X-rays are DRRs, not films"] * (plain > 0)


def _limits(test: pd.DataFrame, inputs: dict[str, str]) -> list[str]:
    found = ["Intervals cover the choice of test patients, not the choice of training cases or seeds."]
    smallest = min(int((part.label == v).sum()) for _, part in test.groupby("fold") for v in (0, 1))
    if smallest < FEW:
        found.append(f"Few cases: {smallest} of the rarer class in a test part; its AUC says little.")
    folds = test.fold.nunique()
    positives, negatives = (int((test.label == v).sum() / folds) for v in (1, 0))
    if min(positives, negatives) > 0:
        width = expected_half_width(0.8, positives, negatives, folds)
        found.append(f"With these counts an AUC of 0.8 has an interval of about ±{width:.2f}.")
    if "metadata" not in inputs.values():
        found.append("No row without a picture: view, age, sex and hours do not differ between the training cases.")
    if folds > 1 and "generated" in inputs.values():
        found.append(
            "Generators of training cases were trained on the CTs, never the labels, of this fold's test patients."
        )
    return found
