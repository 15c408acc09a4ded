"""Detectability of lesions: the filters' scores of every volume, and AUCs with intervals."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from scipy.stats import ttest_ind

from dataset.phantom.lesions import HEALTHY, NODULES_MM
from evaluation.detectability.lesion_cases import Known, LesionCases
from evaluation.detectability.matched_filter import ball_search, best_contrast, contrast
from evaluation.generation.model_inputs import ModelInputs
from evaluation.generation.sample import Sampling, sample_volumes
from evaluation.statistics.delong import areas
from evaluation.statistics.patient_bootstrap import LEVEL, bootstrap_mean
from evaluation.statistics.significance import ALPHA, holm

FEWEST_PATIENTS = 10  # with fewer, intervals count subjects and hold for these patients alone
XRAY, TRUTH, MODEL, SAMPLE, RIDGE = ("xray", "truth", "model", "model_sample", "ridge")


def score_lesions(
    pipeline, cases: LesionCases, sampling: Sampling, baselines=None, compared: Mapping[str, object] | None = None
) -> pd.DataFrame:
    """`lesion, patient, subject, present, method, known, blind`: contrast at the known place, and the best elsewhere.

    `model` is the mean of the samples; `xray` is the X-ray itself, without a blind search; `baselines` are fitted
    `Baselines`, `compared` further pipelines by name.
    """
    shown = cases.shown()
    inputs = ModelInputs.of_cases((cases.case(*pair) for pair in shown), pipeline)
    volumes: list[dict[str, torch.Tensor]] = [{TRUTH: cases.truth(*pair)} for pair in shown]
    for name, generator in {MODEL: pipeline, **(compared or {})}.items():
        ids = [subject for subject, _ in shown]  # its lesions share their noise
        for part, samples in sample_volumes(generator, inputs, ids, sampling):
            for index, drawn in zip(part, samples, strict=True):
                volumes[index][name] = drawn.mean(dim=0)
                if name == MODEL and sampling.samples > 1:
                    volumes[index][SAMPLE] = drawn[0]
    if baselines is not None:
        for index, volume in enumerate(baselines.predict(inputs.xrays)[RIDGE]):
            volumes[index][RIDGE] = volume
    rows = []
    for subject in cases.subjects:
        known, who = cases.known(subject), {"patient": cases.patient(subject), "subject": subject}
        for index, (owner, lesion) in enumerate(shown):
            if owner == subject:
                spacing = tuple(cases.case(owner, lesion)["spacing"].tolist())
                xray = inputs.xrays[index, :, 0].nan_to_num().numpy()
                rows += [{**who, **row} for row in _scores(known, lesion, volumes[index], xray, spacing)]
    return pd.DataFrame(rows)


def _scores(known: Known, shown: str, volumes: dict, xray: np.ndarray, spacing) -> list[dict]:
    """A row for each lesion and method; a healthy subject is scored for every lesion."""
    rows = []
    for lesion in known.signals if shown == HEALTHY else (shown,):
        row = {"lesion": lesion, "present": int(shown != HEALTHY)}
        rows.append({**row, "method": XRAY, "known": contrast(xray, known.shadows[lesion]), "blind": np.nan})
        for name, volume in volumes.items():
            hu = volume.numpy()
            if lesion in NODULES_MM:
                blind = ball_search(hu, known.lungs, NODULES_MM[lesion], spacing)
            else:
                blind = best_contrast(hu, known.elsewhere[lesion])
            rows.append({**row, "method": name, "known": contrast(hu, known.signals[lesion]), "blind": blind})
    return rows


def summarise(scores: pd.DataFrame) -> dict[str, dict[str, dict]]:
    """AUCs of both searches and the share of the contrast that a method keeps, by lesion and method.

    `kept` is the mean contrast of the subjects with the lesion minus that of those without, with the
    interval of the differences if each unit has both (`bootstrap_mean`), else with Welch's t interval. Intervals count
    `unit`. Subjects are left out in whom another organ hides the lesion, and X-rays that it does not change;
    `subjects` counts the others, with and without. An estimate without both kinds is None.
    """
    hidden = scores[(scores.method == TRUTH) & scores.known.isna()]
    keys, by = pd.MultiIndex.from_frame(scores[["lesion", "subject"]]), unit(scores)
    seen = scores[~keys.isin(pd.MultiIndex.from_frame(hidden[["lesion", "subject"]]))]
    found: dict[str, dict[str, dict]] = {}
    for (lesion, method), rows in seen.groupby(["lesion", "method"], sort=False):
        entry = {f"{search}_auc": _auc(rows.dropna(subset=search), search, by) for search in ("known", "blind")}
        known = rows.dropna(subset="known")
        found.setdefault(lesion, {})[method] = {**entry, "kept": _kept(known, by), "subjects": len(known)}
    return found


def unit(scores: pd.DataFrame) -> str:
    """The column that intervals count: patients, or subjects where the patients are too few."""
    return "patient" if scores.patient.nunique() >= FEWEST_PATIENTS else "subject"


def _auc(rows: pd.DataFrame, search: str, by: str) -> dict | None:
    if rows.present.nunique() < 2:
        return None
    result = areas(rows[search].to_numpy(), rows.present.to_numpy(), rows[by].to_numpy())
    low, high = result.interval(0)
    return {"mean": float(result.means[0]), "low": low, "high": high, "p": result.p_value(0)}


def _kept(rows: pd.DataFrame, by: str) -> dict | None:
    means = rows.groupby([by, "present"]).known.mean().unstack().reindex(columns=(1, 0))
    parts = [means[value].dropna().to_numpy() for value in (1, 0)]
    if min(map(len, parts)) < 2:
        return None
    if means.notna().all(axis=None):
        return bootstrap_mean(parts[0] - parts[1], means.index.to_numpy()).as_dict()
    interval = ttest_ind(*parts, equal_var=False).confidence_interval(LEVEL)
    return {"mean": float(parts[0].mean() - parts[1].mean()), "low": float(interval.low), "high": float(interval.high)}


def verdicts(summary: dict[str, dict[str, dict]], method: str = MODEL) -> dict[str, str]:
    """What a method keeps of each lesion: `not recoverable`, `not shown` or `detectable`.

    A lesion that changes the X-ray of no subject is not recoverable; one is detectable if the interval of the AUC at
    its known place lies above 0.5 and the p value of 0.5, Holm-adjusted over the lesions, is below 0.05.
    """
    known = {lesion: methods[method]["known_auc"] or {"low": 0.0, "p": None} for lesion, methods in summary.items()}
    adjusted = holm({lesion: entry["p"] for lesion, entry in known.items()})  # None: separated without error
    found = {}
    for lesion, methods in summary.items():
        if methods[XRAY]["subjects"] == 0:
            found[lesion] = "not recoverable"
        else:
            shown = known[lesion]["low"] > 0.5 and (adjusted[lesion] is None or adjusted[lesion] <= ALPHA)
            found[lesion] = "detectable" if shown else "not shown"
    return found
