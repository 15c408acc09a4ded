"""Rank histogram: the place of the truth among independent samples, voxel by voxel."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from evaluation.statistics.patient_bootstrap import DRAWS, LEVEL, bootstrap_mean, resampled_means


def rank_shares(
    samples: Float[Tensor, "s d h w"], truth: Float[Tensor, "d h w"], mask: Bool[Tensor, "d h w"]
) -> Float[np.ndarray, " r"]:
    """Share of the voxels of a mask whose truth is above 0, 1, …, s of the samples; sums to 1.

    Samples must be independent of each other. A truth that equals samples (both are clipped to the window) belongs in
    equal parts to all ranks between which a random choice would decide. NaN for an empty mask.
    """
    drawn, wanted = samples[:, mask], truth[mask]
    lower, upper = (drawn < wanted).sum(dim=0), (drawn <= wanted).sum(dim=0)
    share, count = np.zeros(len(samples) + 1), wanted.numel()
    table = torch.bincount(lower * (len(samples) + 1) + upper, minlength=(len(samples) + 1) ** 2)
    for first, row in enumerate(table.view(len(samples) + 1, -1).tolist()):
        for last, voxels in enumerate(row):
            if voxels:
                share[first : last + 1] += voxels / (last - first + 1)
    return share / count if count else np.full(len(share), np.nan)


def deviation_from_flat(shares: Float[np.ndarray, "*n r"]) -> Float[np.ndarray, "*n"]:
    """Total variation distance to equal shares: 0 for a flat histogram, `s / (s + 1)` with all truths in one rank."""
    return 0.5 * np.abs(np.asarray(shares) - 1.0 / np.shape(shares)[-1]).sum(axis=-1)


def rank_histogram(
    shares: Float[np.ndarray, "n r"], patients: np.ndarray, draws: int = DRAWS, seed: int = 0
) -> dict | None:
    """The histogram of all cases as JSON; None if no case has one.

    `shares` and `deviation` have intervals over patients. The truth of a voxel whose samples are too little spread
    lies outside all of them, so the first and the last share are too large (Hamill, "Interpretation of rank histograms
    for verifying ensemble forecasts", 2001). The deviation is not below that of chance: with few cases it is above 0
    for calibrated samples too.
    """
    known = np.isfinite(shares).all(axis=1)
    if not known.any():
        return None
    shares, patients = shares[known], np.asarray(patients)[known]
    estimates = [bootstrap_mean(column, patients, draws, seed).within(0.0, 1.0).as_dict() for column in shares.T]
    drawn = resampled_means(shares, patients, draws, seed)
    found = {"mean": round(float(deviation_from_flat(shares.mean(axis=0))), 6), "low": None, "high": None}
    if drawn is not None:
        low, high = np.quantile(deviation_from_flat(drawn), [(1.0 - LEVEL) / 2.0, (1.0 + LEVEL) / 2.0])
        found |= {"low": round(float(low), 6), "high": round(float(high), 6)}
    return {
        "shares": estimates,
        "flat": round(1.0 / shares.shape[1], 6),
        "deviation": found,
        "independent_samples": shares.shape[1] - 1,
        "cases": len(shares),
    }
