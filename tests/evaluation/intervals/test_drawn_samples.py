"""Samples that scores use: with the decoder's residual, unless a single one is a point forecast."""

from types import SimpleNamespace

import torch

from dataset.imaging.hu_window import Window
from evaluation.intervals.drawn_samples import DrawnSamples


def test_one_sample_is_a_point_forecast_without_residual():
    residual = SimpleNamespace(draw=lambda decoded, noise: torch.full_like(decoded, 0.1), device="cpu")
    pipeline = SimpleNamespace(residual=residual, window=Window(-1000.0, 1000.0), antithetic=False)
    volumes = torch.zeros(1, 2, 4, 4, 4)
    two = DrawnSamples(pipeline, volumes, ["a"], 0, False).predictive(0)
    assert torch.allclose(two, torch.full((2, 4, 4, 4), 100.0))
    assert torch.equal(DrawnSamples(pipeline, volumes[:, :1], ["a"], 0, False).predictive(0), volumes[0, :1])
