"""Volumes of lungs and heart in ml from HU.

The lungs are segmented. HU do not show the border of the heart, so a regression from the coarse CT, fitted on labelled
training cases, estimates its volume; the prediction interval of the heart covers the error of this regression too.
"""

from dataclasses import dataclass

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
FITTED_ON, FEWEST = 400, 60  # largest and smallest number of training cases of the fit


def millilitres(mask: Bool[Tensor, "d h w"], spacing: tuple[float, float, float]) -> float:
    """Volume of a mask in ml."""
    return float(mask.sum()) * float(np.prod(spacing)) / 1000.0


def lung_millilitres(hu: Float[Tensor, "d h w"], spacing: tuple[float, float, float]) -> float:
    """Volume of `lung_mask` in ml."""
    return millilitres(lung_mask(hu, spacing), spacing)


@dataclass(frozen=True)
class HeartVolumeRegressor:
    """Ridge regression from HU averaged to `GRID`³ to the heart's share of the volume.

    Attributes:
        weights: of the averaged HU / 1000, flattened.
        constant: intercept.
        error: leave-one-out standard deviation in ml.
        cases: of the fit.
    """

    weights: list[float]
    constant: float
    error: float
    cases: int

    def __call__(self, hu: Float[Tensor, "d h w"], spacing: tuple[float, float, float]) -> float:
        """Heart volume in ml, at least 0; `hu` is clipped to the window of the fit."""
        share = float(np.dot(self.weights, _coarse(hu))) + self.constant
        return max(0.0, share) * _box_ml(hu, spacing)

    @classmethod
    def fit(
        cls, coarse: Float[np.ndarray, "n p"], shares: Float[np.ndarray, " n"], box_ml: float
    ) -> "HeartVolumeRegressor":
        """Fits with the penalty of the smallest leave-one-out error (PRESS, Allen 1974)."""
        n = len(coarse)
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
        return cls([float(f"{w:.6g}") for w in weights], constant, round(float(error), 3), n)


def fit_heart_regressor(cases, window: Window) -> HeartVolumeRegressor | None:
    """Fits on at most `FITTED_ON` evenly spread cases of a `CaseDataset`; None if fewer than `FEWEST` have labels."""
    chosen = np.unique(np.linspace(0, len(cases) - 1, min(FITTED_ON, len(cases))).astype(int))
    coarse, shares, boxes = [], [], []
    for index in chosen:
        case = cases.case(int(index))
        if "labels" in case:
            boxes.append(_box_ml(case["ct"], spacing_of(case)))
            coarse.append(_coarse(case["ct"].float().clamp(window.low, window.high)))
            shares.append(true_volumes(case)["heart_volume"] / boxes[-1])
    if len(coarse) < FEWEST:
        return None
    return HeartVolumeRegressor.fit(np.stack(coarse), np.array(shares), float(np.mean(boxes)))


def true_volumes(case: dict) -> dict[str, float]:
    """`lung_volume` and `heart_volume` in ml from the labels of a phantom, else `lung_volume` by segmentation.

    Without labels, lungs that reach voxels that were not scanned have no volume.
    """
    spacing = spacing_of(case)
    if "labels" not in case:
        lungs = lung_mask(case["ct"].float(), spacing)
        cut = "scanned" in case and bool((lungs & ~case["scanned"]).any())
        return {} if cut else {"lung_volume": millilitres(lungs, spacing)}
    from dataset.phantom.render import LABELS

    parts, labels = {"lung_volume": LUNG_LABELS, "heart_volume": ("heart",)}, case["labels"]
    numbers = {key: torch.tensor([LABELS[n] for n in names], dtype=labels.dtype) for key, names in parts.items()}
    return {key: millilitres(torch.isin(labels, of_part), spacing) for key, of_part in numbers.items()}


def spacing_of(case: dict) -> tuple[float, float, float]:
    """Spacing in mm `(D, H, W)` of a case."""
    return tuple(float(s) for s in case["spacing"])


def _coarse(hu: Float[Tensor, "d h w"]) -> Float[np.ndarray, " p"]:
    return F.adaptive_avg_pool3d(hu.float()[None], GRID).flatten().double().numpy() / 1000.0


def _box_ml(hu: Tensor, spacing: tuple[float, float, float]) -> float:
    return hu.numel() * float(np.prod(spacing)) / 1000.0
