"""Re-projection leaves out what the X-ray does not show."""

import math

import pytest
import torch

from evaluation.metrics.reprojection import reprojection_error


def test_unknown_pixels_are_left_out():
    generator = torch.Generator().manual_seed(0)
    drr, xray = torch.rand(2, 3, 20, 30, generator=generator)
    assert torch.equal(reprojection_error(drr, xray), (drr - xray).abs().mean(dim=(-2, -1)))
    hidden = xray.clone()
    hidden[..., 12:] = math.nan
    torch.testing.assert_close(reprojection_error(drr, hidden), reprojection_error(drr[..., :12], xray[..., :12]))
    assert reprojection_error(drr, torch.full_like(xray, math.nan)).isnan().all()
    assert float(reprojection_error(torch.full((4, 4), math.nan), torch.zeros(4, 4))) != pytest.approx(0.0)
