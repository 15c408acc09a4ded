"""Scores of the consistency benchmark: what was not scanned is left out, and which X-rays are flagged."""

import pytest
import torch

from benchmarks.consistency.run import control_table, flags, scores


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


def test_flags_and_warnings_count_chi2_of_first_predictions():
    rows = [
        {"case": f"{i}", "method": "off", "chi2": 99.0, "first_own": 1.0 + i, "first_gamma_0.8": 3.0 + i}
        for i in range(4)
    ]
    assert flags([*rows, {"case": "0", "method": "on"}], 3.5) == "above the limit of 3.5: own 1 of 4, gamma_0.8 3 of 4"
    drawn = [
        {"case": f"{i}", "method": method, "control": "own", "psnr_one": 20.0 + gain, "first_chi2": 2.0 + i}
        for i in range(4)
        for method, gain in (("off", 0.0), ("on", 0.5))
    ]
    (line,) = [line for line in control_table(drawn, 3.5).splitlines() if line.startswith("| own")]
    assert "| 0.500 [0.500, 0.500] | 3.500 [" in line and line.endswith("| 2 of 4 |")
    assert control_table([], 3.5) == ""
