"""The torchmetrics classes: batches of any size give the mean over volumes."""

import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio

from evaluation.accumulators import VolumeMAE, VolumePSNR, VolumeSSIM


@pytest.fixture(scope="module")
def pair():
    truth = torch.rand(5, 1, 12, 13, 14, generator=torch.Generator().manual_seed(0))
    scale = torch.tensor([0.01, 0.02, 0.05, 0.1, 0.2]).view(5, 1, 1, 1, 1)
    return truth + scale * torch.randn(truth.shape, generator=torch.Generator().manual_seed(1)), truth


@pytest.mark.parametrize("metric", [VolumePSNR(1.0), VolumeSSIM(1.0), VolumeMAE()])
def test_batches_of_any_size_give_the_same(pair, metric):
    found = []
    for size in (1, 2, 5):
        metric.reset()
        for prediction, truth in zip(pair[0].split(size), pair[1].split(size), strict=True):
            metric.update(prediction, truth)
        found.append(float(metric.compute()))
    assert found == pytest.approx([found[0]] * 3, rel=1e-6)


def test_psnr_is_the_mean_of_torchmetrics_own_per_volume(pair):
    metric = VolumePSNR(1.0)
    metric.update(*pair)
    expected = peak_signal_noise_ratio(*pair, data_range=1.0, dim=(1, 2, 3, 4), reduction="none").mean()
    assert float(metric.compute()) == pytest.approx(float(expected), abs=1e-4)
    assert metric.higher_is_better and not VolumeMAE().higher_is_better


def test_mae_of_an_offset():
    metric = VolumeMAE()
    metric.update(torch.full((2, 3, 3, 3), 30.0), torch.full((2, 3, 3, 3), 10.0))
    assert float(metric.compute()) == 20.0
