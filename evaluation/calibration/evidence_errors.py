"""Errors of calibration and test cases by the evidence of their samples: the curve, and its check on test cases."""

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
from jaxtyping import Float, Shaped
from torch import Tensor

from dataset.imaging.hu_window import Window
from ddpm.diffusion.training_spread import ESTIMATE, FEWEST_SAMPLES, TrainingSpread
from evaluation.statistics.evidence_curve import FINE_BINS, EvidenceCurve, grouped
from evaluation.statistics.evidence_reliability import evidence_reliability, reliability_sums


def evidence_errors(
    spread: TrainingSpread | None,
    samples: Float[Tensor, "s d h w"],
    predictive: Float[Tensor, "s d h w"],
    case: dict,
    window: Window,
    antithetic: bool,
) -> Float[np.ndarray, "4 f"] | None:
    """`reliability_sums` of a case in `FINE_BINS`; None without training spread, or of fewer than 4 samples.

    `samples` are in HU, `predictive` are these with the detail that the decoder loses, which the map is made of.
    """
    if spread is None or len(samples) < FEWEST_SAMPLES:
        return None
    truth = case["ct"].float().clamp(window.low, window.high)
    found = spread.evidence(predictive, antithetic), spread.variance(truth.shape)
    return reliability_sums(*found, samples, truth, antithetic, case.get("scanned"), FINE_BINS)


def fit_evidence(
    calibration: Sequence[np.ndarray | None],
    test: Sequence[np.ndarray | None],
    patients: Shaped[np.ndarray, " n"],
    seed: int = 0,
) -> dict | None:
    """`estimate`, `curve`, the attributes of the `EvidenceCurve` of calibration cases, `reliability` on test cases.

    The reliability is `{"samples", "calibrated"}`, each as `evidence_reliability` gives it with intervals over the
    `patients` of the test cases, of the maps without and with the curve. None without evidence.
    """
    found = [*calibration, *test]
    curve = None if any(sums is None for sums in found) else EvidenceCurve.fit(np.stack(calibration))
    if curve is None:
        return None
    sums = np.stack(test)
    parts = {"samples": grouped(sums), "calibrated": grouped(sums, curve)}
    reliability = {name: evidence_reliability(part, patients, seed=seed) for name, part in parts.items()}
    return {"estimate": ESTIMATE, "curve": asdict(curve), "reliability": reliability}
