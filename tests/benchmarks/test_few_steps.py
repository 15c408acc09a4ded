"""Scores of few steps: what was not scanned is left out."""

import pytest
import torch

from benchmarks.fidelity.few_steps import facts
from dataset.imaging.hu_window import Window


def test_voxels_that_were_not_scanned_do_not_count():
    truth = torch.full((16, 16, 16), -1000.0)
    truth[:, 4:12, 4:12] = 40.0
    noise = torch.randn(4, 16, 16, 16, generator=torch.Generator().manual_seed(0)) * 50.0
    samples, scanned = truth + noise, torch.ones(16, 16, 16, dtype=torch.bool)
    scanned[:4] = False
    window = Window(-1000.0, 1000.0)
    expected = facts(samples, {"ct": truth, "scanned": scanned}, window)
    samples[:, :4] = 1000.0
    assert facts(samples, {"ct": truth, "scanned": scanned}, window) == pytest.approx(expected, nan_ok=True)
    assert facts(samples, {"ct": truth}, window)["psnr_mean"] < expected["psnr_mean"] - 3.0
