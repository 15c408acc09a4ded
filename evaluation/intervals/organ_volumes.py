"""How large lungs and heart of a volume are, in ml, where nothing but its HU is known.

Lungs are segmented. No segmenter of the heart ships with us and HU do not show where it ends, so the size of the heart
is a regression from the coarse volume, fitted on labelled training cases. Its error is part of what conformal bounds
on the heart have to cover.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from dataset.imaging.hu_window import Window
from evaluation.metrics.regions import LUNG_LABELS, lung_mask

GRID = 8  # the volume is averaged down to this many places a side before the regression
SMALLEST_STD_HU = 20.0  # a place that hardly varies in training says nothing
PENALTIES = tuple(10.0 ** (k / 2.0) for k in range(-6, 5))  # in units of the mean eigenvalue
FITTED_ON, FEWEST = 400, 60  # training cases


def millilitres(mask: Bool[Tensor, "d h w"], spacing: tuple[float, float, float]) -> float:
    """Volume of a mask in ml."""
    return float(mask.sum()) * float(np.prod(spacing)) / 1000.0


def lung_millilitres(hu: Float[Tensor, "d h w"], spacing: tuple[float, float, float]) -> float:
    """Both lungs with their vessels, by `dataset.imaging.lung_segmentation.segment_lungs`; 0 where none are found."""
    return millilitres(lung_mask(hu, spacing), spacing)


@dataclass(frozen=True)
class HeartRuler:
    """Heart volume in ml out of HU: ridge regression from the volume at `GRID`³ to the share of the box that is heart.

    Attributes:
        weights: of the averaged HU in units of 1000, flattened.
        constant: added.
        error: standard deviation in ml of what it misses on training cases left out of its fit.
        cases: of the fit.
    """

    weights: tuple[float, ...]
    constant: float
    error: float
    cases: int

    def __call__(self, hu: Float[Tensor, "d h w"], spacing: tuple[float, float, float]) -> float:
        """ml, never negative. `hu` clipped to the window of the fit."""
        share = float(np.dot(self.weights, _coarse(hu))) + self.constant
        return max(0.0, share) * _box_ml(hu, spacing)

    @classmethod
    def fit(
        cls, coarse: Float[np.ndarray, "n p"], shares: Float[np.ndarray, " n"], box_ml: float = 1.0
    ) -> "HeartRuler":
        """Ridge regression; the penalty with the smallest leave-one-out error (Allen 1974).

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
        """Plain JSON, which the constructor takes back."""
        return {
            "weights": list(self.weights),
            "constant": self.constant,
            "error": self.error,
            "cases": self.cases,
        }


def fit_heart_ruler(cases, window: Window, most: int = FITTED_ON) -> HeartRuler | None:
    """The ruler of a training set (`CaseDataset`), from evenly spread cases; None where too few have labels."""
    chosen = np.unique(np.linspace(0, len(cases) - 1, min(most, len(cases))).astype(int))
    coarse, shares, boxes = [], [], []
    for index in chosen:
        case = cases.case(int(index))
        heart = true_volumes(case, lungs=False).get("heart_volume")
        if heart is not None:
            boxes.append(_box_ml(case["ct"], spacing_of(case)))
            coarse.append(_coarse(clamped(case["ct"], window)))
            shares.append(heart / boxes[-1])
    if len(coarse) < FEWEST:
        return None
    return HeartRuler.fit(np.stack(coarse), np.array(shares), float(np.mean(boxes)))


def true_volumes(case: dict, lungs: bool = True) -> dict[str, float]:
    """`lung_volume` and `heart_volume` in ml: a phantom's own masks, else the segmented lungs alone."""
    spacing = spacing_of(case)
    if "labels" not in case:
        return {"lung_volume": lung_millilitres(case["ct"].float(), spacing)} if lungs else {}
    from dataset.phantom.render import LABELS

    labels = case["labels"]

    def sum_of(names: Iterable[str]) -> float:
        return millilitres(torch.isin(labels, torch.tensor([LABELS[n] for n in names], dtype=labels.dtype)), spacing)

    return {"lung_volume": sum_of(LUNG_LABELS), "heart_volume": sum_of(("heart",))}


def clamped(hu: Tensor, window: Window) -> Float[Tensor, "d h w"]:
    """HU as a generator can show them."""
    return hu.float().clamp(window.low, window.high)


def spacing_of(case: dict) -> tuple[float, float, float]:
    """mm `(D, H, W)` of a case."""
    return tuple(float(s) for s in case["spacing"])


def _coarse(hu: Float[Tensor, "d h w"]) -> Float[np.ndarray, " p"]:
    return F.adaptive_avg_pool3d(hu.float()[None], GRID).flatten().double().numpy() / 1000.0


def _box_ml(hu: Tensor, spacing: tuple[float, float, float]) -> float:
    return hu.numel() * float(np.prod(spacing)) / 1000.0
