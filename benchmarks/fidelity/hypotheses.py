"""The hypotheses of the benchmark, each as a sentence with its interval and verdict.

A hypothesis is shown if the whole 95 % interval of the paired difference lies beyond its margin and the p value of
"exactly the margin", Holm-adjusted over all measured hypotheses, is at most 0.05.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from evaluation.metrics.catalogue import catalogue
from evaluation.statistics.significance import holm

SIGNIFICANT = 0.05
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


HYPOTHESES = (
    Hypothesis("the mean of 8 samples is at most 0.6 dB below regression", "model", "regression", margin=-0.6),
    Hypothesis("it is above the training mean", "model", "mean_volume"),
    Hypothesis("it is above the nearest training case", "model", "nearest"),
    Hypothesis("it is at least 1 dB above ridge regression", "model", "ridge", margin=1.0),
    Hypothesis("it loses at least 3 dB on other patients' X-rays", "model", "shuffled_xray", margin=3.0),
    Hypothesis(
        "one sample is at least 3 dB above one of the X-ray2CTPA baseline", "model_sample", "xray2ctpa", margin=3.0
    ),
    Hypothesis("and above one of its 1,000 steps, on equal cases", "model_sample", "xray2ctpa_1000", margin=3.0),
    Hypothesis(
        "its gradients are nearer to the truth's than regression's", "model_sample", "regression", "gradient_spectrum"
    ),
    Hypothesis("its noise power is nearer to the truth's", "model_sample", "regression", "noise_power_spectrum"),
    Hypothesis(
        "with unknown poses it is above the same network without lifting", "unknown_pose", "unknown_pose_no_lifting"
    ),
    Hypothesis(
        "with unknown poses it is at most 0.6 dB below regression",
        "unknown_pose",
        "unknown_pose_regression",
        margin=-0.6,
    ),
    Hypothesis(
        "with unknown poses it is at least 1 dB above ridge regression",
        "unknown_pose",
        "ridge_unknown_pose",
        margin=1.0,
    ),
    Hypothesis("with unknown poses it is above the nearest case", "unknown_pose", "nearest_unknown_pose"),
    Hypothesis("with unknown poses it is above the training mean", "unknown_pose", "mean_volume_unknown_pose"),
    Hypothesis(
        "with unknown poses it loses at least 3 dB on other patients' X-rays",
        "unknown_pose",
        "shuffled_xray_unknown_pose",
        margin=3.0,
    ),
    Hypothesis(
        "with unknown poses its gradients are nearer to the truth's than regression's",
        "unknown_pose_sample",
        "unknown_pose_regression",
        "gradient_spectrum",
    ),
    Hypothesis(
        "with unknown poses its noise power is nearer to the truth's than regression's",
        "unknown_pose_sample",
        "unknown_pose_regression",
        "noise_power_spectrum",
    ),
    Hypothesis(
        "trained with known poses and tested with unknown ones, it is above the same network without lifting",
        "whole_8min_on_unknown_pose",
        "no_lifting_on_unknown_pose",
    ),
)


def evaluate(found: dict, home: Path, size: int) -> list[dict]:
    """Every hypothesis with its difference and verdict; then those on samplers and coverage, if their files exist."""
    from benchmarks.fidelity.paired import difference

    entries, p_values = [], {}
    for hypothesis in HYPOTHESES:
        measured = None
        if hypothesis.one in found and hypothesis.other in found:
            sign = -1.0 if catalogue()[hypothesis.metric].best == "low" else 1.0
            measured = difference(
                found[hypothesis.one], found[hypothesis.other], hypothesis.metric, sign * hypothesis.margin
            )
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
    """`shown`, `not shown` (the mean is beyond the margin, the interval is not), `not reached`, or `not measured`."""
    measured = entry["difference"]
    if measured is None:
        return "not measured"
    sign = -1.0 if catalogue()[entry["metric"]].best == "low" else 1.0
    if sign * measured["mean"] < entry["margin"]:
        return "not reached"
    if measured["low"] is None or entry["p_holm"] is None:
        return "not shown"
    nearest = min(sign * measured["low"], sign * measured["high"])
    return "shown" if nearest > entry["margin"] and entry["p_holm"] <= SIGNIFICANT else "not shown"


def sampler_hypotheses(path: Path) -> list[dict]:
    """Default and stochastic sampler against 1,000 ancestral steps, and the mean of `fast`; from `samplers.py`."""
    if not path.exists():
        return []
    held = json.loads(path.read_text())
    ways, protocol = held["ways"], held["protocol"]
    where = f"on {protocol['cases']} {SPLITS[protocol['split']]} cases"
    found = []
    alike = (
        ("psnr_one", "one sample's PSNR", -0.1, None, "dB"),  # no upper limit
        ("psnr_mean_of_all", "PSNR of the mean", -0.1, None, "dB"),
        ("spread", "spread of samples", 0.95, 1.05, ""),
        ("gradient", "mean gradient", 0.95, 1.05, ""),
    )
    limits = [(way, *one) for way in ("default", "sde") for one in alike] + [("fast", *alike[1])]
    for way, key, title, low, high, unit in limits:
        measured = ways.get(way, {}).get("against", {}).get(key)
        limit = f"at least {low:g}" if high is None else f"within {low:g} and {high:g}"
        words = f"sampler {way}: {title} against 1,000 ancestral steps, {where}, is {limit} {unit}".strip()
        most = float("inf") if high is None else high
        if measured is None:
            state = "not measured"
        elif not low <= measured["mean"] <= most:
            state = "not reached"
        else:
            inside = measured["low"] is not None and low <= measured["low"] and measured["high"] <= most
            state = "shown" if inside else "not shown"
        found.append({"words": words, "difference": measured, "unit": unit, "verdict": state})
    return found + [entry for way in ("default", "sde") for entry in _worst_amplitude(ways.get(way, {}), way, where)]


def _worst_amplitude(way: dict, name: str, where: str) -> list[dict]:
    """Amplitude ratio at the frequency farthest from the reference: a ratio of means over cases, without interval."""
    worst = way.get("against", {}).get("amplitude", {}).get("worst")
    if worst is None:
        return []
    words = (
        f"sampler {name}: the amplitude of the noise spectrum at its worst frequency, {where}, is within 0.95 and 1.05"
    )
    state = "reached, no interval" if 0.95 <= worst <= 1.05 else "not reached"
    return [{"words": words, "difference": {"mean": worst, "low": None, "high": None}, "unit": "", "verdict": state}]


def coverage_hypotheses(path: Path) -> list[dict]:
    """Measured coverage of every prediction interval; from `evaluation/calibrate.py`."""
    if not path.exists():
        return []
    held = json.loads(path.read_text())
    found, level = [], held["level"]
    for name, share in held["coverage"].items():
        state = "above the level" if share["low"] > level else "below the level"
        state = "compatible with the level" if share["low"] <= level <= share["high"] else state
        words = f"coverage of the prediction interval of {name.replace('_', ' ')}, level {level:g}, "
        words += f"on {share['cases']} test cases"
        found.append({"words": words, "difference": share, "unit": "", "verdict": state})
    return found


def sentences(entries: list[dict]) -> list[str]:
    """One line each, with the interval, the adjusted p value and the differences by training seed."""
    lines = [f"- **{entry['verdict']}**: {entry['words']}{_figures(entry)}." for entry in entries]
    return ["## Hypotheses", "", *lines]


def _figures(entry: dict) -> str:
    measured = entry["difference"]
    if measured is None:
        return ""
    unit = entry.get("unit", catalogue()[entry["metric"]].unit if "metric" in entry else "")
    text = f": {measured['mean']:.3g}"
    if measured["low"] is not None:
        text += f" [{measured['low']:.3g}, {measured['high']:.3g}]"
    text += f" {unit}" if unit else ""
    if entry.get("p_holm") is not None:
        text += f", adjusted p {entry['p_holm']:.2g}"
    if "by_seed" in measured:
        text += f", by training seed {', '.join(f'{v:.3g}' for v in measured['by_seed'])}"
    return text
