"""What the benchmark must show, each as a sentence with its interval, and whether it is shown.

A claim of a margin is shown where the whole 95 % interval of the paired difference lies beyond it and the p value of
"exactly the margin", Holm-adjusted over all claims that were measured, is at most 0.05.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from evaluation.metrics.catalogue import catalogue
from evaluation.statistics.significance import holm

SIGNIFICANT = 0.05
SPLITS = {"val": "validation", "test": "test", "train": "training"}


@dataclass(frozen=True)
class Claim:
    """One row against another in a metric.

    Attributes:
        margin: that the difference, in the direction that is better, has to exceed; negative: may stay below zero by.
    """

    words: str
    one: str
    other: str
    metric: str = "psnr"
    margin: float = 0.0


CLAIMS = (
    Claim("the mean of 8 samples is at most 0.6 dB below regression", "model", "regression", margin=-0.6),
    Claim("it is above the training mean", "model", "mean_volume"),
    Claim("it is above the nearest training case", "model", "nearest"),
    Claim("it is at least 1 dB above ridge regression", "model", "ridge", margin=1.0),
    Claim("it loses at least 3 dB on other patients' X-rays", "model", "shuffled_xray", margin=3.0),
    Claim("one sample is at least 3 dB above one of the ancestor's recipe", "model_sample", "ancestor", margin=3.0),
    Claim("and above one of its 1,000 steps, on equal cases", "model_sample", "ancestor_1000", margin=3.0),
    Claim(
        "its gradients are nearer to the truth's than regression's", "model_sample", "regression", "gradient_spectrum"
    ),
    Claim("its noise power is nearer to the truth's", "model_sample", "regression", "noise_power_spectrum"),
    Claim("with unknown poses it is above the same without lifting", "unknown_pose", "unknown_pose_no_lifting"),
    Claim(
        "with unknown poses it is at most 0.6 dB below regression",
        "unknown_pose",
        "unknown_pose_regression",
        margin=-0.6,
    ),
    Claim(
        "with unknown poses it is at least 1 dB above ridge regression",
        "unknown_pose",
        "ridge_unknown_pose",
        margin=1.0,
    ),
    Claim("with unknown poses it is above the nearest case", "unknown_pose", "nearest_unknown_pose"),
    Claim("with unknown poses it is above the training mean", "unknown_pose", "mean_volume_unknown_pose"),
    Claim(
        "with unknown poses it loses at least 3 dB on other patients' X-rays",
        "unknown_pose",
        "shuffled_xray_unknown_pose",
        margin=3.0,
    ),
    Claim(
        "with unknown poses its gradients are nearer to the truth's than regression's",
        "unknown_pose_sample",
        "unknown_pose_regression",
        "gradient_spectrum",
    ),
    Claim(
        "with unknown poses its noise power is nearer to the truth's than regression's",
        "unknown_pose_sample",
        "unknown_pose_regression",
        "noise_power_spectrum",
    ),
    Claim(
        "trained with known poses and shown unknown ones, it is above the same without lifting",
        "whole_8min_on_unknown_pose",
        "no_lifting_on_unknown_pose",
    ),
)


def judge(found: dict, home: Path, size: int) -> list[dict]:
    """Every claim with its difference and verdict; then those about samplers and bounds, if their files are there."""
    from benchmarks.fidelity.paired import difference

    told, p_values = [], {}
    for claim in CLAIMS:
        measured = None
        if claim.one in found and claim.other in found:
            sign = -1.0 if catalogue()[claim.metric].best == "low" else 1.0
            measured = difference(found[claim.one], found[claim.other], claim.metric, sign * claim.margin)
        if measured is not None:
            p_values[claim.words] = measured.pop("p")
        told.append({**claim.__dict__, "difference": measured})
    adjusted = holm(p_values)
    for entry in told:
        entry["p_holm"] = adjusted.get(entry["words"])
        entry["verdict"] = verdict(entry)
    return [*told, *sampler_claims(home / f"samplers_{size}.json"), *coverage_claims(home / f"bounds_{size}.json")]


def verdict(entry: dict) -> str:
    """`shown`, `not shown` (true on average, not beyond doubt), `not reached`, or `not measured`."""
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


def sampler_claims(path: Path) -> list[dict]:
    """The default and the stochastic way against 1,000 ancestral steps, and the preview's mean; from `samplers.py`."""
    if not path.exists():
        return []
    held = json.loads(path.read_text())
    ways, told = held["ways"], held["protocol"]
    where = f"on {told['cases']} {SPLITS[told['split']]} cases"
    found = []
    alike = (
        ("psnr_one", "one sample's PSNR", -0.1, None, "dB"),  # more than the reference's is no fault
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
    """The frequency at which a way is farthest from the reference; a ratio of means over cases, without interval."""
    worst = way.get("against", {}).get("amplitude", {}).get("worst")
    if worst is None:
        return []
    words = (
        f"sampler {name}: the amplitude of the noise spectrum at its worst frequency, {where}, is within 0.95 and 1.05"
    )
    state = "reached, no interval" if 0.95 <= worst <= 1.05 else "not reached"
    return [{"words": words, "difference": {"mean": worst, "low": None, "high": None}, "unit": "", "verdict": state}]


def coverage_claims(path: Path) -> list[dict]:
    """Measured coverage of every bound; from `evaluation/calibrate.py`."""
    if not path.exists():
        return []
    held = json.loads(path.read_text())
    found = []
    for name, told in held["coverage"].items():
        promised = held["level"]
        state = "the interval holds it" if told["low"] <= promised <= told["high"] else (
            "more than promised" if told["low"] > promised else "less than promised"
        )  # fmt: skip
        words = f"bound on {name.replace('_', ' ')}: promised {promised:g}, on {told['cases']} test cases"
        found.append({"words": words, "difference": told, "unit": "", "verdict": state})
    return found


def sentences(told: list[dict]) -> list[str]:
    """A line each, with the interval, the adjusted p value and the differences of the training seeds."""
    lines = ["## What it must show", ""]
    for entry in told:
        lines.append(f"- **{entry['verdict']}**: {entry['words']}{_figures(entry)}.")
    return lines


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
