"""Metrics against closed forms and independent implementations."""

import pytest
import torch
from evaluation_fakes import chest_world, score
from monai.metrics.regression import compute_ssim_and_cs
from scipy.spatial.distance import dice as scipy_dice
from torchmetrics.functional.image import peak_signal_noise_ratio

from dataset.imaging.hu_window import Window
from evaluation.metrics.catalogue import catalogue
from evaluation.metrics.dice import dice
from evaluation.metrics.regions import body_mask
from evaluation.metrics.ssim import ssim, ssim_window
from evaluation.metrics.voxel_error import PSNR_CAP_DB, mae_hu, psnr

RANGE = 2000.0
WIDE = Window(-1000.0, 1000.0)


@pytest.fixture(scope="module")
def pair():
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(3, 20, 24, 18, generator=generator) * RANGE - 1000.0
    return truth + 150.0 * torch.randn(truth.shape, generator=generator), truth


def test_identity_scores_best_and_is_finite(pair):
    _, truth = pair
    assert torch.equal(psnr(truth, truth, RANGE), torch.full((3,), PSNR_CAP_DB))
    assert torch.allclose(ssim(truth, truth, RANGE), torch.ones(3), atol=1e-5)
    assert torch.equal(mae_hu(truth, truth), torch.zeros(3))


def test_constant_offset_has_a_closed_form(pair):
    _, truth = pair
    shifted = truth + 20.0
    assert torch.allclose(mae_hu(shifted, truth), torch.full((3,), 20.0), atol=1e-3)
    assert torch.allclose(psnr(shifted, truth, RANGE), torch.full((3,), 40.0), atol=1e-3)  # 20 log10(100)


def test_psnr_agrees_with_torchmetrics_per_volume(pair):
    prediction, truth = pair
    prediction = truth + (prediction - truth) * torch.tensor([0.1, 1.0, 3.0]).view(3, 1, 1, 1)
    ours = psnr(prediction, truth, RANGE)
    theirs = peak_signal_noise_ratio(prediction, truth, RANGE, dim=(1, 2, 3), reduction="none")
    assert torch.allclose(ours, theirs, atol=1e-3)
    pooled = peak_signal_noise_ratio(prediction, truth, RANGE)
    assert ours.mean() > pooled + 1.0  # pooling the squared error is another number


def test_ssim_agrees_with_monai(pair):
    prediction, truth = (volume + 1000.0 for volume in pair)
    for scale in (1.0, 0.2):
        noisy = truth + scale * (prediction - truth)
        ours = ssim(noisy, truth, RANGE)
        per_voxel, _ = compute_ssim_and_cs(
            noisy[:, None], truth[:, None], 3, (11,) * 3, (1.5,) * 3, RANGE, kernel_type="gaussian"
        )
        assert torch.allclose(ours, per_voxel.mean(dim=(1, 2, 3, 4)), atol=1e-4)


def test_ssim_measures_hu_from_the_lower_end_of_the_window(pair):
    prediction, truth = pair
    shifted = ssim(prediction + 1000.0, truth + 1000.0, RANGE)
    assert torch.allclose(ssim(prediction, truth, RANGE, low=-1000.0), shifted, atol=1e-5)
    assert not torch.allclose(ssim(prediction, truth, RANGE), shifted, atol=0.01)


def test_ssim_of_constants_has_a_closed_form():
    x, y = torch.full((12, 12, 12), 0.5 * RANGE), torch.full((12, 12, 12), 0.25 * RANGE)
    expected = (2 * 0.5 * 0.25 + 1e-4) / (0.5**2 + 0.25**2 + 1e-4)  # Wang 2004: no contrast, luminance term alone
    assert ssim(x, y, RANGE) == pytest.approx(expected, abs=1e-4)


def test_ssim_broadcasts_the_truth_and_shrinks_the_window_for_small_volumes(pair):
    prediction, truth = pair
    together = ssim(prediction, truth[0], RANGE)
    assert torch.allclose(together[1], ssim(prediction[1], truth[0], RANGE), atol=1e-6)
    assert ssim_window(64) == 11 and ssim_window(8) == 7 and ssim_window(7) == 7
    assert ssim(truth[0, :6, :7, :8], truth[0, :6, :7, :8], RANGE) == pytest.approx(1.0, abs=1e-5)


def test_mae_inside_a_mask(pair):
    prediction, truth = pair
    mask = torch.zeros(truth.shape[1:], dtype=torch.bool)
    mask[3:6, 4:9, 2:11] = True
    expected = (prediction - truth)[:, 3:6, 4:9, 2:11].abs().flatten(1).mean(dim=1)
    assert torch.allclose(mae_hu(prediction, truth, mask), expected)
    assert torch.isnan(mae_hu(prediction, truth, torch.zeros_like(mask))).all()


def test_dice_agrees_with_scipy():
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.rand(2, 6, 7, 8, generator=generator) > 0.6 for _ in range(2))
    expected = [1.0 - scipy_dice(x.flatten().numpy(), y.flatten().numpy()) for x, y in zip(a, b, strict=True)]
    assert dice(a, b).tolist() == pytest.approx(expected, abs=1e-6)
    empty = torch.zeros(2, 6, 7, 8, dtype=torch.bool)
    assert dice(empty, empty).tolist() == [1.0, 1.0]
    assert dice(a, empty).tolist() == [0.0, 0.0]


def test_body_mask_contains_the_lungs_but_not_the_table():
    d, h, w = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in (16, 40, 40)), indexing="ij")
    radius = torch.hypot(h - 18, w - 20)
    hu = torch.where(radius < 15, 40.0, -1000.0)
    hu[torch.hypot(h - 18, w - 14) < 4] = -850.0  # a lung
    hu[:, 37:39, 5:35] = 100.0  # the table
    mask = body_mask(hu)
    assert torch.equal(mask, radius < 15)
    assert not body_mask(torch.full((4, 4, 4), -1000.0)).any()


def marked(case: dict, end: int) -> dict:
    """The case with slices from `end` on marked as not scanned."""
    places = torch.arange(len(case["ct"]))[:, None, None]
    return case | {"scanned": (places < end).expand(case["ct"].shape).clone()}


def test_voxels_that_were_not_scanned_change_no_metric():
    case = chest_world(1, 3).case(0)
    prediction = case["ct"].float() + 50.0 * torch.randn(case["ct"].shape, generator=torch.Generator().manual_seed(0))
    end = len(prediction) * 3 // 4
    other = prediction.clone()
    other[end:] = 700.0
    names = [name for name in catalogue() if name not in ("lpips",)]
    found, changed = (score(volume, marked(case, end), WIDE, names) for volume in (prediction, other))
    for name in names:
        assert found[name] == pytest.approx(changed[name], nan_ok=True), name
    part = {key: case[key][:end] for key in ("ct", "labels") if key in case} | {"spacing": case["spacing"]}
    cut = score(prediction[:end], {**case, **part}, WIDE, ["psnr", "mae_hu", "rmse_hu"])
    assert all(found[name] == pytest.approx(cut[name], rel=1e-5) for name in cut)


def test_a_wholly_scanned_case_has_the_numbers_of_one_without_marks():
    case = chest_world(1, 3).case(0)
    case.pop("scanned", None)
    prediction, names = case["ct"].float() + 30.0, [name for name in catalogue() if name != "lpips"]
    plain, scanned = (
        score(prediction, case, WIDE, names),
        score(prediction, marked(case, len(prediction)), WIDE, names),
    )
    assert all(plain[name] == scanned[name] or plain[name] != plain[name] for name in names)
