"""Scores of the consistency benchmark: what was not scanned is left out."""

import pytest
import torch

from benchmarks.consistency.run import scores


def test_voxels_that_were_not_scanned_do_not_count():
    truth = torch.full((24, 24, 24), -1000.0)
    truth[:, 4:20, 4:20] = 40.0
    samples = truth + torch.randn(6, 24, 24, 24, generator=torch.Generator().manual_seed(0)) * 50.0
    scanned = torch.ones(24, 24, 24, dtype=torch.bool)
    scanned[:4] = False
    body = (truth > -500.0) & scanned
    expected = scores(samples, truth, (5.0, 5.0, 5.0), scanned, body, True)
    samples[:, :4] = 1000.0
    found = scores(samples, truth, (5.0, 5.0, 5.0), scanned, body, True)
    assert {"psnr_one", "psnr_mean", "psnr_mean_4", "crps", "spread_square"} <= found.keys()
    assert found == pytest.approx(expected, nan_ok=True)
