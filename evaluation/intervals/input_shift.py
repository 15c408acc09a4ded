"""A test whether an X-ray is like those of the calibration: prediction intervals hold for no other.

Two statistics: the Mahalanobis distance of grey values and sharpness from those of the training X-rays, and the
exponent of the grey scale (gamma) that a ridge regression reads off an X-ray, fitted on training X-rays with random
exponents. Each has a p value by its rank among the calibration X-rays (conformal anomaly detection, Laxhammar and
Falkman 2010), and twice the smaller one counts (Bonferroni). So at most a share `LEVEL` of X-rays from the population
of the calibration loses its interval. The test sees another exponent, blur, noise and other pictures; it does not see
all that can spoil an interval.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

LEVEL = 0.05  # p value below which no interval is claimed
SIDE = 64  # pixels per side that an X-ray is averaged to
QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)  # of the grey values
BANDS = 3  # octaves of detail, from the finest
FITTED_ON, FEWEST = 200, 40  # largest and smallest number of training X-rays
RIDGE = 1e-3  # added to the variances, as a share of them
COARSE = 16  # pixels per side of the picture in the regression of the exponent
GREY = (0.0, 0.2, 0.4, 0.6, 0.8)  # lower ends of the grey levels whose detail is in it
EXPONENTS, WIDEST, PENALTY = 5, 0.35, 100.0  # random exponents of an X-ray, their largest logarithm; of the ridge


def xray_features(xray: Float[Tensor, "v h w"]) -> Float[np.ndarray, " f"]:
    """Quantiles of the grey values and logarithms of the energy of each octave of detail, view by view.

    Unknown pixels (NaN) take the median of the known ones.
    """
    found = []
    for view in xray.detach().float().cpu():
        known = view[~view.isnan()]
        filled = torch.where(view.isnan(), known.median() if known.numel() else 0.0, view)
        image = F.adaptive_avg_pool2d(filled[None, None], SIDE)
        found += torch.quantile(image.flatten(), torch.tensor(QUANTILES)).tolist()
        for _ in range(BANDS):
            coarse = F.avg_pool2d(image, 2)
            detail = image - F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
            found.append(float(detail.square().mean().clamp_min(1e-12).log()))
            image = coarse
    return np.array(found)


def curve_features(xray: Float[Tensor, "v h w"]) -> Float[np.ndarray, " f"]:
    """What shows the exponent in the first view: quantiles, a coarse picture, detail by grey level and octave."""
    view = xray[0].detach().float().cpu()
    known = view[~view.isnan()]
    view = torch.where(view.isnan(), known.median() if known.numel() else 0.0, view)
    image = F.adaptive_avg_pool2d(view[None, None], SIDE)
    found = [torch.quantile(image.flatten(), torch.linspace(0.05, 0.95, 19))]
    found.append(F.adaptive_avg_pool2d(view[None, None], COARSE).flatten())
    for _ in range(BANDS):
        coarse = F.avg_pool2d(image, 2)
        detail = (image - F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)).abs()
        inside = [(image >= low) & (image < low + 0.2) for low in GREY]
        means = [detail[level].mean() if level.any() else torch.tensor(0.0) for level in inside]
        found.append(torch.stack(means).clamp_min(1e-4).log())
        image = coarse
    return torch.cat(found).double().numpy()


@dataclass(frozen=True)
class InputShift:
    """The test of one calibration.

    Attributes:
        mean: of the features of training X-rays.
        whitening: lower triangle whose square is the inverse of their covariance.
        distances: of the calibration X-rays, ascending.
        curve: weights of `curve_features`, the constant last, that give the logarithm of the exponent.
        exponents: absolute logarithms of those of the calibration X-rays, ascending.
    """

    mean: list[float]
    whitening: list[list[float]]
    distances: list[float]
    curve: list[float]
    exponents: list[float]

    def distance(self, xray: Float[Tensor, "v h w"]) -> float:
        """Mahalanobis distance of an X-ray from the training X-rays."""
        return float(np.linalg.norm(np.array(self.whitening) @ (xray_features(xray) - np.array(self.mean))))

    def exponent(self, xray: Float[Tensor, "v h w"]) -> float:
        """Absolute logarithm of the exponent of the grey scale against that of the training X-rays."""
        return abs(float(np.dot(self.curve[:-1], curve_features(xray))) + self.curve[-1])

    def p_value(self, xray: Float[Tensor, "v h w"]) -> float:
        """At most α with a probability of at most α, for any α, if the X-ray is like those of the calibration."""
        pairs = (self.distances, self.distance(xray)), (self.exponents, self.exponent(xray))
        farther = min(len(known) - int(np.searchsorted(known, own, side="left")) for known, own in pairs)
        return min(1.0, 2.0 * (1 + farther) / (1 + len(self.distances)))

    @classmethod
    def fit(cls, training: list[Tensor], calibration: list[Tensor]) -> "InputShift | None":
        """The test from training and calibration X-rays `(v, h, w)`; None with fewer than `FEWEST` training X-rays."""
        if len(training) < FEWEST:
            return None
        features = np.stack([xray_features(xray) for xray in training])
        covariance = np.cov(features.T)
        covariance += np.diag(RIDGE * np.diag(covariance) + 1e-12)
        whitening = np.linalg.inv(np.linalg.cholesky(covariance))
        mean, rows = _rounded(features.mean(axis=0)), [_rounded(row) for row in whitening]
        made = cls(mean, rows, [], _rounded(_curve_weights(training)), [])
        distances, exponents = ([round(of(x), 4) for x in calibration] for of in (made.distance, made.exponent))
        return cls(mean, rows, sorted(distances), made.curve, sorted(exponents))


def _curve_weights(xrays: list[Tensor]) -> Float[np.ndarray, " f"]:
    """Ridge regression of the logarithm of random exponents on `curve_features`."""
    drawn = np.random.default_rng(0).uniform(-WIDEST, WIDEST, (len(xrays), EXPONENTS))
    logs = np.concatenate([drawn, np.zeros((len(xrays), 1))], axis=1)
    features = np.stack([curve_features(x**w) for x, row in zip(xrays, np.exp(logs), strict=True) for w in row])
    mean, scale, wanted = features.mean(axis=0), features.std(axis=0) + 1e-6, logs.ravel()
    z = (features - mean) / scale
    weights = z.T @ np.linalg.solve(z @ z.T + PENALTY * np.eye(len(z)), wanted - wanted.mean()) / scale
    return np.append(weights, wanted.mean() - weights @ mean)


def _rounded(values) -> list[float]:
    return [float(f"{value:.6g}") for value in values]


def fit_input_shift(train, calibration, chosen: list[int]) -> InputShift | None:
    """The test from at most `FITTED_ON` evenly spread cases of a training set and the chosen calibration cases."""
    evenly = np.unique(np.linspace(0, len(train) - 1, min(FITTED_ON, len(train))).astype(int))
    training = [train.case(int(index))["xray"].float() for index in evenly]
    return InputShift.fit(training, [calibration.case(index)["xray"] for index in chosen])
