"""Volumes of lungs and heart in ml, from HU alone.

Lungs are segmented. HU do not show the border of the heart, so its volume is a regression from the coarse CT, fitted
on labelled training cases; the prediction interval of the heart covers the error of this regression too.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from dataset.imaging.hu_window import Window
from evaluation.metrics.regions import LUNG_LABELS, lung_mask

GRID = 8  # cells per side that the volume is averaged to before the regression
SMALLEST_STD_HU = 20.0  # added to the standard deviation of each cell
PENALTIES = tuple(10.0 ** (k / 2.0) for k in range(-6, 5))  # in units of the mean eigenvalue
FITTED_ON, FEWEST = 400, 60  # most and fewest training cases of the fit


def millilitres(mask: Bool[Tensor, "d h w"], spacing: tuple[float, float, float]) -> float:
    """Volume of a mask in ml."""
    return float(mask.sum()) * float(np.prod(spacing)) / 1000.0


def lung_millilitres(hu: Float[Tensor, "d h w"], spacing: tuple[float, float, float]) -> float:
    """Volume in ml of both lungs with their vessels (`evaluation.metrics.regions.lung_mask`); 0 without lungs."""
    return millilitres(lung_mask(hu, spacing), spacing)


@dataclass(frozen=True)
class HeartVolumeRegressor:
    """Ridge regression from HU averaged to `GRID`³ to the heart's share of the volume.

    Attributes:
        weights: of the averaged HU / 1000, flattened.
        constant: intercept.
        error: leave-one-out standard deviation in ml on the training cases.
        cases: of the fit.
    """

    weights: tuple[float, ...]
    constant: float
    error: float
    cases: int

    def __call__(self, hu: Float[Tensor, "d h w"], spacing: tuple[float, float, float]) -> float:
        """Heart volume in ml, at least 0, of `hu` clipped to the window of the fit."""
        share = float(np.dot(self.weights, _coarse(hu))) + self.constant
        return max(0.0, share) * _box_ml(hu, spacing)

    @classmethod
    def fit(
        cls, coarse: Float[np.ndarray, "n p"], shares: Float[np.ndarray, " n"], box_ml: float = 1.0
    ) -> "HeartVolumeRegressor":
        """Fits with the penalty of the smallest leave-one-out error (PRESS, Allen 1974).

        Raises:
            ValueError: fewer than `FEWEST` cases.
        """
        n = len(coarse)
        if n < FEWEST:
            raise ValueError(f"{n} labelled training cases are too few to estimate hearts; {FEWEST} are needed")
        mean, scale = coarse.mean(axis=0), coarse.std(axis=0) + SMALLEST_STD_HU / 1000.0
        z, target = (coarse - mean) / scale, shares - shares.mean()
        values, vectors = np.linalg.eigh(z @ z.T)
        values, along, best = values.clip(min=0.0), vectors.T @ target, None
        for penalty in PENALTIES:
            shrunk = values / (values + penalty * values.mean())
            leverage = np.minimum((vectors**2) @ shrunk + 1.0 / n, 1.0 - 1e-9)
            missed = (target - vectors @ (shrunk * along)) / (1.0 - leverage)
            if best is None or missed.std() < best[0]:
                best = missed.std(), z.T @ (vectors @ (along / (values + penalty * values.mean())))
        error, weights = best[0] * box_ml, best[1] / scale
        constant = float(shares.mean() - mean @ weights)
        return cls(tuple(float(f"{w:.6g}") for w in weights), constant, round(float(error), 3), n)

    def describe(self) -> dict:
        """Constructor arguments as JSON."""
        return asdict(self) | {"weights": list(self.weights)}


def fit_heart_regressor(cases, window: Window, most: int = FITTED_ON) -> HeartVolumeRegressor | None:
    """Fits on at most `most` evenly spread cases of a `CaseDataset`; None if fewer than `FEWEST` have labels."""
    chosen = np.unique(np.linspace(0, len(cases) - 1, min(most, len(cases))).astype(int))
    coarse, shares, boxes = [], [], []
    for index in chosen:
        case = cases.case(int(index))
        heart = true_volumes(case, lungs=False).get("heart_volume")
        if heart is not None:
            boxes.append(_box_ml(case["ct"], spacing_of(case)))
            coarse.append(_coarse(case["ct"].float().clamp(window.low, window.high)))
            shares.append(heart / boxes[-1])
    if len(coarse) < FEWEST:
        return None
    return HeartVolumeRegressor.fit(np.stack(coarse), np.array(shares), float(np.mean(boxes)))


def true_volumes(case: dict, lungs: bool = True) -> dict[str, float]:
    """`lung_volume` and `heart_volume` in ml from the labels of a phantom, else `lung_volume` by segmentation."""
    spacing = spacing_of(case)
    if "labels" not in case:
        return {"lung_volume": lung_millilitres(case["ct"].float(), spacing)} if lungs else {}
    from dataset.phantom.render import LABELS

    labels = case["labels"]

    def sum_of(names: Iterable[str]) -> float:
        return millilitres(torch.isin(labels, torch.tensor([LABELS[n] for n in names], dtype=labels.dtype)), spacing)

    return {"lung_volume": sum_of(LUNG_LABELS), "heart_volume": sum_of(("heart",))}


def spacing_of(case: dict) -> tuple[float, float, float]:
    """Spacing in mm `(D, H, W)` of a case."""
    return tuple(float(s) for s in case["spacing"])


def _coarse(hu: Float[Tensor, "d h w"]) -> Float[np.ndarray, " p"]:
    return F.adaptive_avg_pool3d(hu.float()[None], GRID).flatten().double().numpy() / 1000.0


def _box_ml(hu: Tensor, spacing: tuple[float, float, float]) -> float:
    return hu.numel() * float(np.prod(spacing)) / 1000.0
