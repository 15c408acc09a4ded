"""Protocols of results: the settings that values depend on besides the method, and the differences of two."""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import torch

from dataset.imaging.hu_window import Window
from evaluation.metrics.catalogue import catalogue
from evaluation.statistics.patient_bootstrap import DRAWS, LEVEL, METHOD

REGISTRATIONS = ("none", "rigid")
POINT = "point"  # estimator of a deterministic method
SAME = (  # keys in which two comparable results agree
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
    """`one sample` or `mean of n samples`; `POINT` for 0, a deterministic method."""
    if samples < 1:
        return POINT
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
    seed: int = 0,
) -> dict:
    """The protocol in `metrics.json` of a result without registration; plain JSON.

    The mean of `samples` per X-ray is evaluated; `patients` has an entry per case, `data` is that of the data module,
    `data_sha256` the `hash_cases` of the evaluated cases, and `seed` that of the bootstrap.
    """
    common = "prediction and truth in HU, both clipped to the window; one number per volume, then the mean"
    return {
        "estimator": estimator(samples),
        "samples": samples,
        "window": [window.low, window.high],
        "data_range_hu": window.width,
        "volume_size": [int(n) for n in volume_size],
        "spacing": None if spacing is None else [float(s) for s in spacing],
        "registration": "none",
        "unscanned_voxels": "left out",
        "split": split,
        "cases": len(patients),
        "patients": len(set(patients)),
        "dataset": data.get("dataset"),
        "data_version": data.get("version"),
        "data_sha256": data_sha256,
        "data": data,
        "bootstrap": {"draws": DRAWS, "seed": seed, "level": LEVEL, "unit": "patient", "method": METHOD},
        "definitions": {"all": common} | {name: catalogue()[name].definition for name in metrics},
    }


def hash_cases(cases: Iterable[dict], ids: Iterable[str]) -> str:
    """SHA-256 of ids, true volumes, spacings, X-rays and, if not all was scanned, the marks, in order."""
    digest = hashlib.sha256()
    for case, name in zip(cases, ids, strict=True):
        digest.update(f"{name}\n".encode())
        for key in ("ct", "spacing", "xray"):
            tensor = torch.as_tensor(case[key]).contiguous().cpu()
            digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.numpy().tobytes())
        if "scanned" in case and not case["scanned"].all():
            digest.update(np.packbits(case["scanned"].cpu().numpy()).tobytes())
    return digest.hexdigest()


def estimator_of(protocol: dict, method: str) -> str:
    """The estimator of one method of a result; `point` for a deterministic one."""
    return protocol.get("estimators", {}).get(method, protocol.get("estimator", "missing"))


def differences(first: dict, second: dict, method: str = "model", method_b: str | None = None) -> list[str]:
    """The differences of two protocols with both values, one line each; empty if the methods are comparable.

    One sample is not comparable with a mean of several; a deterministic method is comparable with both.
    """
    lines = []
    ours, theirs = estimator_of(first, method), estimator_of(second, method_b or method)
    if ours != theirs and POINT not in (ours, theirs):
        lines.append(f"estimator: {ours} against {theirs}")
    for key in SAME:
        ours, theirs = first.get(key, "missing"), second.get(key, "missing")
        if ours != theirs:
            lines.append(f"{key}: {_short(ours)} against {_short(theirs)}")
    ours, theirs = first.get("definitions", {}), second.get("definitions", {})
    other = [name for name in sorted(set(ours) & set(theirs)) if ours[name] != theirs[name]]
    return lines + [f"definition of {name}: “{ours[name]}” against “{theirs[name]}”" for name in other]


def _short(value) -> str:
    text = "unknown" if value is None else str(value)
    return text if len(text) <= 64 or not isinstance(value, str) else text[:12] + "…"
