"""Baselines without a network: each prediction is a weighted sum of the training volumes.

The weights are equal for the mean volume, one-hot for the nearest case, and the dual weights of ridge regression from
X-ray pixels to the principal components of the volumes. Volumes are read in blocks, so any size fits in memory.
"""

import logging
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dataset.imaging.unknown_pixels import pooled
from ddpm.conditioning.ridge import RidgeSystem

log = logging.getLogger(__name__)

RIDGE_PIXELS = 32  # pixels per side of the X-rays in the regression
GRAM_VOXELS = 32  # voxels per side of the volumes in the Gram matrix, all of which are in memory
PENALTIES = tuple(10.0**k for k in range(-4, 4))  # in units of the mean squared feature norm
COMPONENTS = (4, 8, 16, 32, 64, 128, 256, 512, 1024)
BLOCK = 64  # training volumes in memory at a time


def nearest_weights(xrays: Float[Tensor, "m p"], train_xrays: Float[Tensor, "n p"]) -> Float[Tensor, "m n"]:
    """One-hot weights of the training case whose X-ray has the smallest mean squared difference of known pixels."""
    if xrays.isnan().any() or train_xrays.isnan().any():
        distances = torch.stack([(train_xrays - xray).square().nanmean(dim=1).nan_to_num(torch.inf) for xray in xrays])
    else:
        distances = torch.cdist(xrays, train_xrays, compute_mode="donot_use_mm_for_euclid_dist")
    closest = distances.argmin(dim=1)
    return F.one_hot(closest, len(train_xrays)).float()


def xray_features(xrays: Float[Tensor, "n v 1 h w"]) -> Float[Tensor, "n p"]:
    """All views of each X-ray, known pixels averaged to `RIDGE_PIXELS` per side, in one row; NaN where unknown."""
    return pooled(xrays.float(), RIDGE_PIXELS).reshape(len(xrays), -1)


def gram_row(volume: Float[Tensor, "d h w"]) -> Float[Tensor, " p"]:
    """A volume as a row of the Gram matrix's factor, averaged to at most `GRAM_VOXELS` per side."""
    size = [min(n, GRAM_VOXELS) for n in volume.shape]
    return F.adaptive_avg_pool3d(volume.float()[None], size).flatten()


class RidgeToComponents:
    """Ridge regression from X-ray features to principal components of the training volumes.

    The predicted volume is the mean plus the centred training volumes with the weights `k(x)ᵀ (K + λI)⁻¹ U Uᵀ`, where
    K = Z Zᵀ for standardised features Z and U are the components of the volumes' centred Gram matrix (dual form:
    Saunders, Gammerman and Vovk 1998). λ and the number of components minimise the squared error on validation cases.
    """

    def __init__(self, penalties: Iterable[float] = PENALTIES, components: Iterable[int] = COMPONENTS):
        self.penalties = tuple(penalties)
        self.components = tuple(components)
        self.penalty: float | None = None  # λ in units of the mean squared feature norm
        self.num_components: int | None = None

    def fit(
        self,
        features: Float[Tensor, "n p"],
        volumes: Float[Tensor, "n q"],
        val_features: Float[Tensor, "k p"],
        val_volumes: Float[Tensor, "k q"],
    ) -> "RidgeToComponents":
        """Fits on training cases; selects λ and the number of components on validation cases."""
        unknown = features.isnan()
        self._offset = features.nanmean(dim=0).nan_to_num(0.0) if unknown.any() else features.mean(dim=0)
        features = torch.where(unknown, self._offset, features)
        # the floor keeps the noise of nearly constant pixels small
        self._scale = features.std(dim=0, correction=0).clamp(min=1e-3)
        self._train = self._standardise(features)
        self._kernel = RidgeSystem((self._train @ self._train.T).double())
        mean = volumes.mean(dim=0)
        centred = volumes - mean
        gram = (centred @ centred.T).double()
        values, vectors = torch.linalg.eigh(gram)
        self._basis = vectors[:, values > 1e-6 * values[-1].clamp(min=1e-30)].flip(1)  # strongest component first
        cross = ((val_volumes - mean) @ centred.T).double()

        choices = {}
        for penalty in self.penalties:
            for count in self.components:
                weights = self._centred_weights(val_features, penalty, count)
                # squared error up to a constant: |v - Σ w c|² = |v|² - 2 w·(Cv) + w G w
                choices[penalty, count] = float(((weights @ gram) * weights - 2.0 * weights * cross).sum())
        self.penalty, self.num_components = min(choices, key=choices.get)
        log.info("ridge baseline: penalty %g, %d components", self.penalty, self.num_components)
        return self

    def weights(self, features: Float[Tensor, "m p"]) -> Float[Tensor, "m n"]:
        """Weights of the training volumes for new X-rays, with sum 1."""
        centred = self._centred_weights(features, self.penalty, self.num_components)
        return (centred - centred.mean(dim=1, keepdim=True) + 1.0 / centred.shape[1]).float()

    def _standardise(self, features: Tensor) -> Tensor:
        """Standardised features; unknown ones have the training mean."""
        return torch.where(features.isnan(), 0.0, (features - self._offset) / self._scale)

    def _centred_weights(self, features: Tensor, penalty: float, count: int) -> Tensor:
        against_train = (self._standardise(features) @ self._train.T).double()
        dual = self._kernel.solve(against_train.T, penalty).T
        basis = self._basis[:, :count]
        return dual @ basis @ basis.T


class Baselines:
    """The three baselines, fitted in one pass over training and validation cases.

    Args:
        train: a `CaseDataset`; each case is read once here and once per `predict`.
        val: validation cases, which select the ridge penalty.
        window: `Window` that volumes are clipped to.
    """

    names = ("mean_volume", "nearest", "ridge")

    def __init__(self, train, val, window):
        self._cases, self._window = train, window
        xrays, volumes = self._read(train)
        val_xrays, val_volumes = self._read(val)
        self._pixels = xrays.flatten(1)
        self.ridge = RidgeToComponents().fit(xray_features(xrays), volumes, xray_features(val_xrays), val_volumes)

    def describe(self) -> dict:
        """Settings and selected parameters as JSON."""
        return {
            "training_cases": len(self._pixels),
            "ridge_pixels": RIDGE_PIXELS,
            "ridge_gram_voxels": GRAM_VOXELS,
            "ridge_penalty": self.ridge.penalty,
            "ridge_components": self.ridge.num_components,
        }

    def predict(self, xrays: Float[Tensor, "m v 1 h w"]) -> dict[str, Float[Tensor, "m d h w"]]:
        """Volumes in HU by name of the baseline."""
        train = len(self._pixels)
        weights = torch.cat(
            [
                torch.full((len(xrays), train), 1.0 / train),
                nearest_weights(xrays.flatten(1).float(), self._pixels),
                self.ridge.weights(xray_features(xrays)),
            ]
        )
        size = self._cases.case(0)["ct"].shape
        total = torch.zeros(len(weights), size.numel())
        for start in range(0, train, BLOCK):
            block = [self._clipped(self._cases.case(i)).flatten() for i in range(start, min(start + BLOCK, train))]
            total.addmm_(weights[:, start : start + BLOCK], torch.stack(block))
        total = total.clamp_(self._window.low, self._window.high).view(len(self.names), -1, *size)
        return dict(zip(self.names, total, strict=True))

    def _read(self, cases) -> tuple[Tensor, Tensor]:
        xrays, rows = [], []
        for index in range(len(cases)):
            case = cases.case(index)
            xrays.append(case["xray"].float().unsqueeze(1))
            rows.append(gram_row(self._clipped(case)))
        return torch.stack(xrays), torch.stack(rows)

    def _clipped(self, case: dict) -> Float[Tensor, "d h w"]:
        return case["ct"].float().clamp_(self._window.low, self._window.high)
