"""A test whether an X-ray is like those of the calibration: prediction intervals hold for no other.

Three statistics: the distance of grey values and sharpness from those of the training X-rays; the exponent of the grey
scale (gamma) that a ridge regression reads off an X-ray, fitted on training X-rays with random exponents;
and, where weights hold the projection consistency and the pose is known, chi² of the re-projection of the network's
first prediction. That prediction is near the mean of the samples and has seen no update towards the X-ray, so its
chi² is the same with and without updates, which would bring that of the samples down to its usual level.

Distance and exponent are divided by their sizes on training X-rays that they were not fitted on. The network has seen
all training X-rays, so the size of chi² is its quantile among those of the calibration *and* of the X-ray in question:
symmetric in all of them, which keeps the p value exact. The largest quotient has a p value by its rank among those of
the calibration X-rays (conformal anomaly detection, Laxhammar and Falkman 2010; full conformal prediction, Vovk et al.
2005). One rank, in place of one for each statistic, does not ask for values beyond all of a small calibration. So at
most a share `LEVEL` of X-rays from the population of the calibration loses its interval. The test sees another
exponent, blur, noise, other pictures and volumes of another patient; it does not see all that can spoil an interval.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

LEVEL = 0.05  # p value below which no interval is claimed
SIDE, FINEST = 64, 256  # pixels per side that an X-ray is averaged to: at least, and at most for its finest detail
QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)  # of the grey values
BANDS = 3  # octaves of detail of `SIDE` pixels, from the finest
FITTED_ON, FEWEST = 400, 40  # largest and smallest number of training X-rays
RIDGE = 1e-3  # added to the variances, as a share of them
DARKEST = 0.02  # grey value below which logarithms stay constant
COARSE = 16  # pixels per side of the picture in the regression of the exponent
GREY = (0.0, 0.2, 0.4, 0.6, 0.8)  # lower ends of the grey levels whose detail is in it
TYPICAL = 0.95  # quantile of a statistic of left-out training X-rays that is its size
EXPONENTS, WIDEST, PENALTY = 5, 0.35, 100.0  # random exponents of an X-ray, their largest logarithm; of the ridge


def xray_features(xray: Float[Tensor, "v h w"], side: int = SIDE) -> Float[np.ndarray, " f"]:
    """Quantiles of the grey values and logarithms of the energy of each octave of detail, view by view.

    Views are averaged to `side` pixels per side, `SIDE` times a power of two. Unknown pixels (NaN) take the median of
    the known ones.
    """
    found = []
    for view in xray.detach().float().cpu():
        known = view[~view.isnan()]
        filled = torch.where(view.isnan(), known.median() if known.numel() else 0.0, view)
        image = F.adaptive_avg_pool2d(filled[None, None], side)
        found += torch.quantile(image.flatten(), torch.tensor(QUANTILES)).tolist()
        for _ in range(BANDS + (side // SIDE).bit_length() - 1):
            coarse = F.avg_pool2d(image, 2)
            detail = image - F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
            found.append(float(detail.square().mean().clamp_min(1e-12).log()))
            image = coarse
    return np.array(found)


def curve_features(xray: Float[Tensor, "v h w"]) -> Float[np.ndarray, " f"]:
    """What shows the exponent in the first view.

    Quantiles, a coarse picture, detail by grey level and octave, and the logarithm of the coarse picture, which an
    exponent scales. Files of earlier versions have no weights for the last part.
    """
    view = xray[0].detach().float().cpu()
    known = view[~view.isnan()]
    view = torch.where(view.isnan(), known.median() if known.numel() else 0.0, view)
    image = F.adaptive_avg_pool2d(view[None, None], SIDE)
    found = [torch.quantile(image.flatten(), torch.linspace(0.05, 0.95, 19))]
    coarse_view = F.adaptive_avg_pool2d(view[None, None], COARSE).flatten()
    found.append(coarse_view)
    for _ in range(BANDS):
        coarse = F.avg_pool2d(image, 2)
        detail = (image - F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)).abs()
        inside = [(image >= low) & (image < low + 0.2) for low in GREY]
        means = [detail[level].mean() if level.any() else torch.tensor(0.0) for level in inside]
        found.append(torch.stack(means).clamp_min(1e-4).log())
        image = coarse
    return torch.cat([*found, coarse_view.clamp(DARKEST, 1.0).log()]).double().numpy()


@dataclass(frozen=True)
class InputShift:
    """The test of one calibration.

    Attributes:
        mean: of the features of training X-rays.
        whitening: lower triangle whose square is the inverse of their covariance.
        curve: weights of `curve_features`, the constant last, that give the logarithm of the exponent.
        sizes: of distance and exponent, by which they are divided.
        ranked: the larger quotient of each calibration X-ray, ascending.
        distances, exponents: of the calibration X-rays, ascending, in files of earlier versions, without the two
            above: there twice the smaller p value of both counts.
        chi2: of the first prediction for each calibration X-ray, in the order of `ranked`; empty where not measured.
        side: of `xray_features`; None in files of earlier versions, whose distance is that of Mahalanobis.
    """

    mean: list[float]
    whitening: list[list[float]]
    curve: list[float]
    sizes: list[float] | None = None
    ranked: list[float] = field(default_factory=list)
    distances: list[float] = field(default_factory=list)
    exponents: list[float] = field(default_factory=list)
    chi2: list[float] = field(default_factory=list)
    side: int | None = None

    def distance(self, xray: Float[Tensor, "v h w"]) -> float:
        """The largest deviation of a feature from what the others predict, in standard deviations of that error.

        Among many features one that changes alone, as the finest detail by a slight blur, stands out in its partial
        residual `(P x)_i / sqrt(P_ii)`, P the inverse covariance (Whittaker 1990, 5.8), but not in `xᵀ P x`.
        """
        whitening = np.array(self.whitening)
        whitened = whitening @ (xray_features(xray, self.side or SIDE) - np.array(self.mean))
        if self.side is None:
            return float(np.linalg.norm(whitened))
        return float(np.max(np.abs(whitening.T @ whitened) / np.linalg.norm(whitening, axis=0)))

    def exponent(self, xray: Float[Tensor, "v h w"]) -> float:
        """Absolute logarithm of the exponent of the grey scale against that of the training X-rays."""
        weights = self.curve[:-1]
        return abs(float(np.dot(weights, curve_features(xray)[: len(weights)])) + self.curve[-1])

    def p_value(self, xray: Float[Tensor, "v h w"], chi2: float | None = None) -> float:
        """At most α with a probability of at most α, for any α, if the X-ray is like those of the calibration.

        `chi2` is that of the first prediction for it; None, as of unknown poses, leaves the other two statistics.
        """
        if self.sizes is not None:
            return self.p_of(self.statistic(xray), chi2)
        pairs = (self.distances, self.distance(xray)), (self.exponents, self.exponent(xray))
        farther = min(_farther(known, own) for known, own in pairs)
        return min(1.0, 2.0 * (1 + farther) / (1 + len(self.distances)))

    def p_of(self, statistic: float, chi2: float | None = None) -> float:
        """The p value of `statistic` of an X-ray and its chi²."""
        ranked = np.array(self.ranked)
        if chi2 is not None and self.chi2:
            chi2 = _rounded([chi2])[0]
            size = np.quantile([*self.chi2, chi2], TYPICAL)
            statistic, ranked = max(statistic, chi2 / size), np.maximum(ranked, np.array(self.chi2) / size)
        return (1 + int((ranked >= statistic).sum())) / (1 + len(ranked))

    def statistic(self, xray: Float[Tensor, "v h w"]) -> float:
        """The larger one of distance and exponent in units of their sizes."""
        return round(max(self.distance(xray) / self.sizes[0], self.exponent(xray) / self.sizes[1]), 4)

    @classmethod
    def fit(
        cls, training: list[Tensor], calibration: list[Tensor], chi2: list[float | None] | None = None
    ) -> "InputShift | None":
        """The test from training and calibration X-rays `(v, h, w)`; None with fewer than `FEWEST` training X-rays.

        `chi2` are those of the calibration X-rays; it takes no part unless all of them are known.
        """
        if len(training) < FEWEST:
            return None
        halves = training[::2], training[1::2]
        values = [
            (part.distance(xray), part.exponent(xray))
            for part, others in ((cls._of_training(half), other) for half, other in (halves, halves[::-1]))
            for xray in others
        ]
        sizes = _rounded(np.quantile(values, TYPICAL, axis=0) + 1e-9)
        made = replace(cls._of_training(training), sizes=sizes)
        return made.calibrated([made.statistic(xray) for xray in calibration], chi2)

    def calibrated(self, statistics: list[float], chi2: list[float | None] | None = None) -> "InputShift":
        """The test with these statistics and chi² of the calibration X-rays."""
        if not chi2 or None in chi2:
            return replace(self, ranked=sorted(statistics), chi2=[])
        pairs = sorted(zip(statistics, _rounded(chi2), strict=True))
        return replace(self, ranked=[own for own, _ in pairs], chi2=[own for _, own in pairs])

    @classmethod
    def _of_training(cls, xrays: list[Tensor]) -> "InputShift":
        """Both statistics, without their sizes and the calibration."""
        side = min(max(SIDE, 1 << (min(xrays[0].shape[1:]).bit_length() - 1)), FINEST)
        features = np.stack([xray_features(xray, side) for xray in xrays])
        covariance = np.cov(features.T)
        covariance += np.diag(RIDGE * np.diag(covariance) + 1e-12)
        whitening = np.linalg.inv(np.linalg.cholesky(covariance))
        rows = [_rounded(row) for row in whitening]
        return cls(_rounded(features.mean(axis=0)), rows, _rounded(_curve_weights(xrays)), side=side)


def _farther(known: list[float], own: float) -> int:
    """How many of the ascending values are at least as large."""
    return len(known) - int(np.searchsorted(known, own, side="left"))


def _curve_weights(xrays: list[Tensor]) -> Float[np.ndarray, " f"]:
    """Ridge regression of the logarithm of random exponents on `curve_features`."""
    drawn = np.random.default_rng(0).uniform(-WIDEST, WIDEST, (len(xrays), EXPONENTS))
    logs = np.concatenate([drawn, np.zeros((len(xrays), 1))], axis=1)
    features = np.stack([curve_features(x**w) for x, row in zip(xrays, np.exp(logs), strict=True) for w in row])
    mean, scale, wanted = features.mean(axis=0), features.std(axis=0) + 1e-6, logs.ravel()
    z = (features - mean) / scale
    weights = np.linalg.solve(z.T @ z + PENALTY * np.eye(z.shape[1]), z.T @ (wanted - wanted.mean())) / scale
    return np.append(weights, wanted.mean() - weights @ mean)


def _rounded(values) -> list[float]:
    return [float(f"{value:.6g}") for value in values]


def fit_input_shift(train, calibration, chosen: list[int], chi2: list[float | None]) -> InputShift | None:
    """The test from at most `FITTED_ON` evenly spread cases of a training set and the chosen calibration cases.

    `chi2` are those of the calibration cases, None where not measured.
    """
    evenly = np.unique(np.linspace(0, len(train) - 1, min(FITTED_ON, len(train))).astype(int))
    training = [train.case(int(index))["xray"].float() for index in evenly]
    return InputShift.fit(training, [calibration.case(index)["xray"] for index in chosen], chi2)
