"""Calibration of evidence maps: what share of the variance is determined where a map says that a share is.

Isotonic regression (Barlow et al., "Statistical inference under order restrictions", 1972; for calibration Zadrozny
and Elkan, KDD 2002) of `1 - squared error / population variance` on the evidence of the samples, over calibration
cases. Samples of the true posterior give the identity, samples that vary too little a lower curve.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

BINS = 10  # of evidence, equally wide
FINE_BINS = 10 * BINS  # in which the curve is fitted


@dataclass(frozen=True)
class EvidenceCurve:
    """A monotone function from [0, 1] to [0, 1], linear between its points and constant beyond them.

    Attributes:
        uncalibrated: evidence of the samples, increasing.
        calibrated: evidence by the errors of the calibration cases, not decreasing.
        cases: number of calibration cases.

    Raises ValueError for points that are no such function.
    """

    uncalibrated: Sequence[float]
    calibrated: Sequence[float]
    cases: int

    def __post_init__(self):
        points = np.array([self.uncalibrated, self.calibrated], dtype=float)  # ValueError for unequal lengths
        ordered = points.shape[1] and (np.diff(points[0]) > 0).all() and (np.diff(points[1]) >= 0).all()
        if not (ordered and (points >= 0.0).all() and (points <= 1.0).all()):
            raise ValueError("the curve of evidence is damaged")

    @classmethod
    def fit(cls, sums: Float[np.ndarray, "n 4 b"]) -> "EvidenceCurve | None":
        """From the `reliability_sums` of calibration cases in `FINE_BINS`; None without a voxel."""
        from sklearn.isotonic import IsotonicRegression  # half a second, which a generation does not need

        _, error, variance, rest = sums.sum(axis=0)
        known = variance > 0.0
        if not known.any():
            return None
        error, variance, rest = error[known], variance[known], rest[known]
        model = IsotonicRegression(y_min=0.0, y_max=1.0)
        model.fit(1.0 - rest / variance, 1.0 - error / variance, sample_weight=variance)
        uncalibrated, places = np.unique(model.X_thresholds_.round(4), return_index=True)
        return cls(uncalibrated.tolist(), model.y_thresholds_[places].round(4).tolist(), len(sums))

    def __call__(self, evidence: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Calibrated evidence; NaN stays."""
        found = self.of(evidence.detach().cpu().numpy())
        return torch.from_numpy(found).to(evidence)

    def of(self, evidence: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        """The same for an array."""
        return np.interp(evidence, self.uncalibrated, self.calibrated)


def grouped(sums: Float[np.ndarray, "n 4 f"], curve: EvidenceCurve | None = None) -> Float[np.ndarray, "n 4 b"]:
    """`reliability_sums` of `FINE_BINS` in the `BINS` of the evidence of the samples, or in those of the curve."""
    total = sums.sum(axis=0)
    filled = total[2] > 0.0
    share = np.where(filled, 1.0 - total[3] / np.where(filled, total[2], 1.0), 0.0)
    found = sums.copy()
    if curve is not None:
        share = curve.of(share)
        found[:, 3] = found[:, 2] * (1.0 - share)
    place = np.clip((share * BINS).astype(int), 0, BINS - 1)
    return np.stack([found[:, :, place == b].sum(axis=2) for b in range(BINS)], axis=2)
