"""The hypotheses of the benchmark, each as a sentence with its interval and verdict.

A hypothesis is shown if the whole 95 % interval of the paired difference over training seeds and patients lies beyond
its margin and the p value of "exactly the margin", Holm-adjusted over all measured hypotheses, is at most 0.05. One
training seed has no p value and shows nothing: a comparison of samplers is of one checkpoint, so its verdict is at
most "holds for this checkpoint".
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.fidelity.paired import difference
from benchmarks.markdown import span
from evaluation.intervals.quantities import ORGANS
from evaluation.metrics.catalogue import catalogue
from evaluation.statistics.patient_bootstrap import FEW_PATIENTS, METHOD
from evaluation.statistics.significance import ALPHA, holm
from evaluation.statistics.split_conformal import coverage_p

TESTED = ("default", "sde")  # samplers with every hypothesis
SPLITS = {"val": "validation", "test": "test", "train": "training"}


@dataclass(frozen=True)
class Hypothesis:
    """One row against another in a metric.

    Attributes:
        margin: lower limit of the difference in the better direction; negative for non-inferiority.
    """

    words: str
    one: str
    other: str
    metric: str = "psnr"
    margin: float = 0.0


POSES, NEARER = "with unknown poses", "nearer to the truth's than regression's"
HYPOTHESES = [
    Hypothesis(*row)
    for row in (
        ("the mean of 8 samples is at most 0.6 dB below regression", "model", "regression", "psnr", -0.6),
        ("it is above the training mean", "model", "mean_volume"),
        ("it is above the nearest training case", "model", "nearest"),
        ("it is at least 1 dB above ridge regression", "model", "ridge", "psnr", 1.0),
        ("it loses at least 3 dB on other patients' X-rays", "model", "shuffled_xray", "psnr", 3.0),
        ("one sample is at least 3 dB above one of the X-ray2CTPA baseline", "model_sample", "xray2ctpa", "psnr", 3.0),
        ("and above one of its 1,000 steps, on equal cases", "model_sample", "xray2ctpa_1000", "psnr", 3.0),
        (f"its gradients are {NEARER}", "model_sample", "regression", "gradient_spectrum"),
        ("its noise power is nearer to the truth's", "model_sample", "regression", "noise_power_spectrum"),
        (f"{POSES} it is above the same network without lifting", "unknown_pose", "unknown_pose_no_lifting"),
        (f"{POSES} it is at most 0.6 dB below regression", "unknown_pose", "unknown_pose_regression", "psnr", -0.6),
        (f"{POSES} it is at least 1 dB above ridge regression", "unknown_pose", "ridge_unknown_pose", "psnr", 1.0),
        (f"{POSES} it is above the nearest case", "unknown_pose", "nearest_unknown_pose"),
        (f"{POSES} it is above the training mean", "unknown_pose", "mean_volume_unknown_pose"),
        (
            f"{POSES} it loses at least 3 dB on other patients' X-rays",
            "unknown_pose",
            "shuffled_xray_unknown_pose",
            "psnr",
            3.0,
        ),
        (f"{POSES} its gradients are {NEARER}", "unknown_pose_sample", "unknown_pose_regression", "gradient_spectrum"),
        (
            f"{POSES} its noise power is {NEARER}",
            "unknown_pose_sample",
            "unknown_pose_regression",
            "noise_power_spectrum",
        ),
        (
            "trained with known poses and tested with unknown ones, it is above the same network without lifting",
            "whole_8min_on_unknown_pose",
            "no_lifting_on_unknown_pose",
        ),
    )
]


def evaluate(found: dict, home: Path, size: int) -> list[dict]:
    """Every hypothesis with its difference and verdict; then those on samplers and coverage, if their files exist."""
    entries, p_values = [], {}
    for hypothesis in HYPOTHESES:
        one, other = found.get(hypothesis.one), found.get(hypothesis.other)
        margin = _sign(hypothesis.metric) * hypothesis.margin
        measured = difference(one, other, hypothesis.metric, margin) if one and other else None
        if measured is not None:
            p_values[hypothesis.words] = measured.pop("p")
        entries.append({**asdict(hypothesis), "difference": measured})
    adjusted = holm(p_values)
    for entry in entries:
        entry["p_holm"] = adjusted.get(entry["words"])
        entry["verdict"] = verdict(entry)
    entries += sampler_hypotheses(home / f"samplers_{size}.json")
    return entries + coverage_hypotheses(home / f"bounds_{size}.json")


def verdict(entry: dict) -> str:
    """`shown`, `not shown` (the mean is beyond the margin, the interval is not), `one training seed`,
    `not reached`, or `not measured`.
    """
    measured, sign = entry["difference"], _sign(entry["metric"])
    if measured is None:
        return "not measured"
    if sign * measured["mean"] < entry["margin"]:
        return "not reached"
    if entry["p_holm"] is None:
        return "one training seed"
    if measured["low"] is None:
        return "not shown"
    nearest = min(sign * measured["low"], sign * measured["high"])
    return "shown" if nearest > entry["margin"] and entry["p_holm"] <= ALPHA else "not shown"


def _sign(metric: str) -> float:
    return -1.0 if catalogue()[metric].best == "low" else 1.0


def sampler_hypotheses(path: Path) -> list[dict]:
    """Default and stochastic sampler against 1,000 ancestral steps, and the mean of `preview`; from `samplers.py`.

    The verdict is `holds for this checkpoint` (the interval over patients is within the limits), `not shown` (the mean
    alone is), `not reached`, `not measured`, or `reached, bootstrap of few cases`: the mean is within the limits, and
    the file is older than the t intervals below `FEW_PATIENTS` patients, with a bootstrap that covers too little.
    """
    if not path.exists():
        return []
    result = json.loads(path.read_text())
    against = {way: measured.get("against", {}) for way, measured in result["ways"].items()}
    narrow = result.get("intervals") != METHOD and result["protocol"]["cases"] < FEW_PATIENTS
    where = f"on {result['protocol']['cases']} {SPLITS[result['protocol']['split']]} cases"
    where += f" of version {result['protocol'].get('version', 1)} of the phantoms"
    alike = (
        ("psnr_one", "one sample's PSNR", -0.1, math.inf, "dB"),
        ("psnr_mean_of_all", "PSNR of the mean", -0.1, math.inf, "dB"),
        ("spread", "spread of samples", 0.95, 1.05, ""),
        ("gradient", "mean gradient", 0.95, 1.05, ""),
    )
    found = []
    for way, key, title, low, high, unit in [(way, *one) for way in TESTED for one in alike] + [
        ("preview", *alike[1])
    ]:
        measured = against.get(way, {}).get(key)
        limit = f"at least {low:g}" if high == math.inf else f"within {low:g} and {high:g}"
        words = f"sampler {way}: {title} against 1,000 ancestral steps, {where}, is {limit} {unit}".strip()
        state = "not measured"
        if measured is not None:
            inside = measured["low"] is not None and low <= measured["low"] and measured["high"] <= high
            state = "holds for this checkpoint" if inside else "not shown"
            state = "reached, bootstrap of few cases" if narrow else state
            state = state if low <= measured["mean"] <= high else "not reached"
        found.append({"words": words, "difference": measured, "unit": unit, "verdict": state})
    # a ratio of means over cases at the frequency farthest from the reference, without interval
    for way in TESTED:
        worst = against.get(way, {}).get("amplitude", {}).get("worst")
        if worst is not None:
            words = f"sampler {way}: the amplitude of the noise spectrum at its worst frequency, {where}, is within "
            state = "reached, no interval" if 0.95 <= worst <= 1.05 else "not reached"
            measured = {"mean": worst, "low": None, "high": None}
            found.append({"words": f"{words}0.95 and 1.05", "difference": measured, "unit": "", "verdict": state})
    return found


def coverage_hypotheses(path: Path) -> list[dict]:
    """Measured coverage of every prediction interval; from `evaluation/calibrate.py`.

    It is judged by the law of the promise (`coverage_p`), which includes the draw of the calibration cases.
    """
    if not path.exists():
        return []
    result = json.loads(path.read_text())
    found, level = [], result["level"]
    for name, share in result["coverage"].items():
        calibrated = result["margins"][name]["cases"]
        p = coverage_p(share["covered"], share["cases"], calibrated, level, 2 if name in ORGANS else 1)
        beside = "above the level" if share["mean"] > level else "below the level"
        state = f"{'compatible with the level' if p > ALPHA else beside} (p {p:.2g})"
        words = f"coverage of the prediction interval of {name.replace('_', ' ')}, level {level:g}, "
        words += f"on {share['cases']} test cases"
        found.append({"words": words, "difference": share, "unit": "", "verdict": state})
    return found


def sentences(entries: list[dict]) -> list[str]:
    """One line each, with the interval, the adjusted p value and the differences by training seed."""
    return [
        "## Hypotheses",
        "",
        *(f"- **{entry['verdict']}**: {entry['words']}{_figures(entry)}." for entry in entries),
    ]


def _figures(entry: dict) -> str:
    measured = entry["difference"]
    if measured is None:
        return ""
    unit = entry["unit"] if "unit" in entry else catalogue()[entry["metric"]].unit
    text = f": {span(measured)}" + (f" {unit}" if unit else "")
    if entry.get("p_holm") is not None:
        text += f", adjusted p {entry['p_holm']:.2g}"
    if "by_seed" in measured:
        text += f", by training seed {', '.join(f'{v:.3g}' for v in measured['by_seed'])}"
    return text
