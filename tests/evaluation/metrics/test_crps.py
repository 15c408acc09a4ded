"""The CRPS against the closed form of a Gaussian, and its laws."""

import math

import pytest
import torch

from dataset.imaging.hu_window import Window
from evaluation.metrics.base import CaseView
from evaluation.metrics.catalogue import measure
from evaluation.metrics.crps import crps
from evaluation.metrics.ssim import ssim
from evaluation.metrics.voxel_error import mae_hu, psnr


def gaussian_crps(y: float, mean: float, std: float) -> float:
    """Gneiting and Raftery 2007, eq. 21."""
    z = (y - mean) / std
    density, below = math.exp(-z * z / 2.0) / math.sqrt(2.0 * math.pi), 0.5 * math.erfc(-z / math.sqrt(2.0))
    return std * (z * (2.0 * below - 1.0) + 2.0 * density - 1.0 / math.sqrt(math.pi))


@pytest.mark.parametrize("count", [2, 3, 8])
def test_the_expected_value_is_that_of_the_distribution_for_any_number_of_samples(count):
    generator = torch.Generator().manual_seed(count)
    samples = 30.0 + 50.0 * torch.randn(count, 200_000, generator=generator, dtype=torch.float64)
    found = crps(samples, torch.full((200_000,), 70.0, dtype=torch.float64)).mean()
    assert float(found) == pytest.approx(gaussian_crps(70.0, 30.0, 50.0), rel=0.01)


@pytest.mark.parametrize("count", [3, 4, 7])
def test_antithetic_samples_have_the_same_expected_value(count):
    noise = torch.randn((count + 1) // 2, 200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    samples = 30.0 + 50.0 * torch.stack([noise, -noise], dim=1).flatten(0, 1)[:count]
    truth = torch.full((200_000,), 70.0, dtype=torch.float64)
    expected = gaussian_crps(70.0, 30.0, 50.0)
    assert float(crps(samples, truth, antithetic=True).mean()) == pytest.approx(expected, rel=0.01)
    assert float(crps(samples, truth).mean()) < 0.95 * expected  # opposite pairs count as spread


def test_it_equals_the_sum_over_pairs():
    samples, truth = torch.randn(5, 40, dtype=torch.float64), torch.randn(40, dtype=torch.float64)
    pairs = sum((samples[i] - samples[j]).abs() for i in range(5) for j in range(i + 1, 5))
    assert torch.allclose(crps(samples, truth), (samples - truth).abs().mean(dim=0) - pairs / 20.0)


def test_one_sample_is_the_absolute_error_and_two_antithetic_ones_are_refused():
    samples, truth = torch.randn(2, 40), torch.randn(40)
    assert torch.equal(crps(samples[:1], truth), (samples[0] - truth).abs())
    with pytest.raises(ValueError, match="3 or more"):
        crps(samples, truth, antithetic=True)


def test_it_scales_with_the_unit_and_ignores_a_common_shift_and_the_order():
    samples, truth = torch.randn(6, 40, dtype=torch.float64), torch.randn(40, dtype=torch.float64)
    found = crps(samples, truth)
    assert torch.allclose(crps(-3.0 * samples + 7.0, -3.0 * truth + 7.0), 3.0 * found)
    assert torch.allclose(crps(samples[torch.randperm(6)], truth), found)


def chest():
    hu = torch.full((12, 16, 16), -1000.0)
    hu[:, 3:13, 3:13] = 40.0
    return {"ct": hu, "spacing": torch.ones(3)}


def test_the_metric_reads_samples_by_method_and_takes_others_as_points():
    case = chest()
    noise = 80.0 * torch.randn(4, *case["ct"].shape, generator=torch.Generator().manual_seed(1))
    samples, point = case["ct"] + noise, case["ct"] + 25.0
    window = Window(-1000.0, 1000.0)
    view = CaseView(
        case | {"samples": {"model": samples}}, torch.stack([samples.mean(0), point]), window, names=("model", "ridge")
    )
    values, reasons = measure(("crps", "crps_body", "mae_hu_body"), view)
    assert not reasons
    inside = view.body
    expected = crps(samples.clamp(-1000, 1000)[:, inside], case["ct"][inside]).mean()
    assert values["crps_body"] == pytest.approx([float(expected), 25.0], rel=1e-4)
    assert values["crps_body"][1] == pytest.approx(values["mae_hu_body"][1])
    assert values["crps"][0] < values["crps_body"][0]  # outside the body the window clips half of the noise
    view = CaseView(
        case | {"samples": {"model": samples[:2]}}, samples[:1], window, None, ("model",), {"antithetic": 1}
    )
    assert "draw 3 or more" in measure(("crps",), view)[1]["crps"]


def test_psnr_and_ssim_in_the_body_ignore_what_lies_outside():
    case, window = chest(), Window(-1000.0, 1000.0)
    better = torch.where(case["ct"] > -500.0, case["ct"] + 20.0, case["ct"])
    worse = torch.where(case["ct"] > -500.0, better, -400.0)
    view = CaseView(case, torch.stack([better, worse]), window)
    values, _ = measure(("psnr", "psnr_body", "ssim_body"), view)
    assert values["psnr_body"] == pytest.approx([40.0, 40.0], abs=1e-3) and values["psnr"][1] < 20.0
    everywhere = torch.ones_like(view.body)
    for whole, masked in (
        (psnr(better, view.truth, 2000.0), psnr(better, view.truth, 2000.0, everywhere)),
        (ssim(better, view.truth, 2000.0, -1000.0), ssim(better, view.truth, 2000.0, -1000.0, everywhere)),
        (mae_hu(better, view.truth), mae_hu(better, view.truth, everywhere)),
    ):
        assert torch.allclose(whole, masked, atol=1e-5)
    assert values["ssim_body"][0] > values["ssim_body"][1]  # windows at the skin reach outside
