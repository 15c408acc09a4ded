"""The protocol of a result: everything that moves a number without the method getting better, and how two differ."""

import hashlib
from collections.abc import Iterable, Sequence

import torch

from dataset.imaging.hu_window import Window
from evaluation.metrics.catalogue import catalogue
from evaluation.statistics.patient_bootstrap import DRAWS, LEVEL

REGISTRATIONS = ("none", "rigid")
POINT = "point"  # the estimator of a method that gives one answer and does not sample
SAME = (  # keys in which two results must agree before their numbers are put side by side
    "window",
    "data_range_hu",
    "volume_size",
    "spacing",
    "registration",
    "split",
    "cases",
    "dataset",
    "data_version",
    "data_sha256",
)


def estimator(samples: int) -> str:
    """What a volume of several samples is: `one sample`, or `mean of n samples`."""
    return f"mean of {samples} samples" if samples > 1 else "one sample"


def describe(
    *,
    window: Window,
    volume_size: Sequence[int],
    spacing: Sequence[float] | None,
    samples: int,
    split: str,
    patients: Sequence[str],
    data: dict,
    data_sha256: str,
    metrics: Sequence[str],
    registration: str = "none",
    seed: int = 0,
) -> dict:
    """The part of `metrics.json` that two comparable results share; plain JSON.

    Args:
        samples: behind each volume of the model.
        patients: one entry per case.
        data: `CTDataModule.protocol()`.
        data_sha256: `hash_cases` of the cases judged.
        registration: `rigid` where predictions were moved onto the truth before they were scored, else `none`.
        seed: of the bootstrap.

    Raises:
        ValueError: an unknown registration.
    """
    if registration not in REGISTRATIONS:
        raise ValueError(f"registration={registration}: choose {' or '.join(REGISTRATIONS)}")
    return {
        "estimator": estimator(samples),
        "samples": samples,
        "window": [window.low, window.high],
        "data_range_hu": window.width,
        "volume_size": [int(n) for n in volume_size],
        "spacing": None if spacing is None else [float(s) for s in spacing],
        "registration": registration,
        "split": split,
        "cases": len(patients),
        "patients": len(set(patients)),
        "dataset": data.get("dataset"),
        "data_version": data.get("version"),
        "data_sha256": data_sha256,
        "data": data,
        "bootstrap": {"draws": DRAWS, "seed": seed, "level": LEVEL, "unit": "patient"},
        "definitions": definitions(metrics),
    }


def definitions(metrics: Iterable[str]) -> dict[str, str]:
    """What each number is, for whoever wants to compute it again."""
    all_of_them = "prediction and truth in HU, both clipped to the window; one number per volume, then the mean"
    return {"all": all_of_them} | {name: catalogue()[name].definition for name in metrics}


def hash_cases(cases: Iterable[dict], ids: Iterable[str]) -> str:
    """SHA-256 over ids, true volumes, spacings and X-rays in order: two results with one hash judged the same data."""
    digest = hashlib.sha256()
    for case, name in zip(cases, ids, strict=True):
        digest.update(f"{name}\n".encode())
        for key in ("ct", "spacing", "xray"):
            tensor = torch.as_tensor(case[key]).contiguous().cpu()
            digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def estimator_of(protocol: dict, method: str) -> str:
    """The estimator behind one row of a result; `point` for a method that does not sample."""
    return protocol.get("estimators", {}).get(method, protocol.get("estimator", "not stated"))


def differences(first: dict, second: dict, method: str = "model", method_b: str | None = None) -> list[str]:
    """Where two protocols part, a line each with both values; empty if the numbers of both rows may be compared.

    One posterior sample and a mean of several are never put side by side; a method that does not sample may stand
    beside either.
    """
    lines = []
    ours, theirs = estimator_of(first, method), estimator_of(second, method_b or method)
    if ours != theirs and POINT not in (ours, theirs):
        lines.append(f"estimator: {ours} against {theirs}")
    for key in SAME:
        ours, theirs = first.get(key, "not stated"), second.get(key, "not stated")
        if ours != theirs:
            lines.append(f"{key}: {_short(ours)} against {_short(theirs)}")
    ours, theirs = first.get("definitions", {}), second.get("definitions", {})
    for name in sorted(set(ours) & set(theirs)):
        if ours[name] != theirs[name]:
            lines.append(f"definition of {name}: “{ours[name]}” against “{theirs[name]}”")
    return lines


def _short(value) -> str:
    text = "unknown" if value is None else str(value)
    return text if len(text) <= 64 or not isinstance(value, str) else text[:12] + "…"
