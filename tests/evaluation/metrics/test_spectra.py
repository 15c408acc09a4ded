"""Gradient and noise-power spectra: closed forms, SciPy, anisotropic spacing, and a blurred mean that scores worse."""

import numpy as np
import pytest
import torch
from evaluation_fakes import score
from scipy import signal
from scipy.stats import wasserstein_distance

from dataset.imaging.hu_window import Window
from dataset.phantom.render import render_phantom
from evaluation.metrics import spectra

SPACING = (3.0, 1.5, 2.0)
EVERYWHERE = torch.ones(24, 32, 28, dtype=torch.bool)


def noise(seed: int = 0, size=(24, 32, 28), sigma: float = 30.0) -> torch.Tensor:
    return sigma * torch.randn(size, generator=torch.Generator().manual_seed(seed))


def test_the_gradient_of_a_ramp_is_its_slope_on_anisotropic_voxels():
    d, h, w = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in (6, 7, 8)), indexing="ij")
    ramp = 2.0 * d * SPACING[0] + 3.0 * h * SPACING[1] - 6.0 * w * SPACING[2]  # HU per mm: 2, 3, -6
    assert torch.allclose(spectra.gradient_magnitude(ramp, SPACING), torch.full((6, 7, 8), 7.0), atol=1e-3)


def test_gradient_distance_is_zero_at_identity_has_a_closed_form_and_agrees_with_scipy():
    truth, other = noise(1), noise(2, sigma=50.0)
    assert spectra.gradient_spectrum(truth, truth, SPACING, EVERYWHERE) == 0.0
    mean = spectra.gradient_magnitude(truth, SPACING).mean()
    found = spectra.gradient_spectrum(0.25 * truth, truth, SPACING, EVERYWHERE)
    assert found == pytest.approx(float(0.75 * mean), rel=1e-4)
    mask = torch.rand(truth.shape, generator=torch.Generator().manual_seed(5)) > 0.4
    both = [spectra.gradient_magnitude(v, SPACING)[mask].numpy() for v in (other, truth)]
    found = spectra.gradient_spectrum(torch.stack([other, truth]), truth, SPACING, mask)
    assert found.tolist() == pytest.approx([wasserstein_distance(*both), 0.0], rel=1e-4)


def test_gradient_distance_does_not_depend_on_position():
    truth = noise(3)
    assert spectra.gradient_spectrum(truth.flip(0, 2), truth, SPACING, EVERYWHERE) < 1e-3


def test_white_noise_has_its_variance_times_the_voxel_at_every_frequency():
    frequencies, power = spectra.noise_power_spectrum(noise(4, (48, 48, 48)), SPACING)
    level = 30.0**2 * 3.0 * 1.5 * 2.0
    assert float(frequencies[-1]) <= 0.5 / 3.0 + 1e-6  # the Nyquist frequency of the coarsest axis
    assert torch.allclose(power[1:] / level, torch.ones(len(power) - 1), atol=0.12)
    assert 0.6 * level < power[0] < 1.1 * level  # detrending reduces the lowest frequency


def test_a_single_block_agrees_with_scipys_periodogram():
    volume = noise(6, (16, 16, 16))
    volume = volume - volume.mean()
    window = signal.windows.hann(18, sym=True)[1:-1]
    fields = spectra._without_trend(volume.double()[None])[0].numpy()
    axis = [np.fft.fftfreq(16, s) for s in SPACING]
    weights = window[:, None, None] * window[None, :, None] * window
    power = np.abs(np.fft.fftn(fields * weights)) ** 2 * np.prod(SPACING) / (weights**2).sum()
    radius = np.sqrt(sum(g**2 for g in np.meshgrid(*axis, indexing="ij")))
    frequencies, found = spectra.noise_power_spectrum(volume, SPACING)
    step = float(frequencies[0])
    expected = [power[np.floor(radius / step + 0.5 + 1e-6) == k].mean() for k in range(1, len(frequencies) + 1)]
    assert found.tolist() == pytest.approx(expected, rel=1e-3)


def test_detrending_removes_planes():
    d, h, w = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in (16, 12, 10)), indexing="ij")
    plane = (5.0 + 2.0 * d - 3.0 * h + 7.0 * w)[None]
    assert spectra._without_trend(plane).abs().max() < 1e-9


def test_half_the_deviations_differ_by_six_decibels_and_a_gaussian_blur_by_its_transfer_function():
    truth = noise(7, (48, 48, 48))
    assert spectra.noise_power_distance(truth, truth, SPACING) == 0.0
    assert spectra.noise_power_distance(0.5 * truth, truth, SPACING) == pytest.approx(20 * np.log10(2), rel=1e-3)
    sigma = 1.2  # mm; the transfer function of the blur is exact in the Fourier domain of a periodic volume
    axes = [torch.fft.fftfreq(48, s) for s in SPACING]
    square = sum(f**2 for f in torch.meshgrid(*axes, indexing="ij"))
    blurred = torch.fft.ifftn(torch.fft.fftn(truth) * torch.exp(-2 * np.pi**2 * sigma**2 * square)).real
    frequencies, power = spectra.noise_power_spectrum(blurred, SPACING)
    _, before = spectra.noise_power_spectrum(truth, SPACING)
    expected = torch.exp(-4 * np.pi**2 * sigma**2 * frequencies**2)
    assert torch.allclose(10 * torch.log10(power / before), 10 * torch.log10(expected), atol=0.6)
    assert 10 * torch.log10(power[-1] / before[-1]) < -5.0


def test_the_distance_of_a_constant_volume_is_large_but_finite():
    distance = spectra.noise_power_distance(torch.zeros(24, 32, 28), noise(8), SPACING)
    assert 25.0 < distance < 60.0


def test_a_batch_equals_single_volumes():
    volumes, truth = torch.stack([noise(9), noise(10)]), noise(11)
    mask = EVERYWHERE.clone()
    mask[:, :12] = False
    together = spectra.noise_power_distance(volumes, truth, SPACING, mask)
    alone = [spectra.noise_power_distance(v, truth, SPACING, mask) for v in volumes]
    assert together.tolist() == pytest.approx([float(a) for a in alone], rel=1e-4)


def test_a_blurred_mean_with_better_psnr_scores_worse_than_a_sharp_sample():
    truth = torch.from_numpy(render_phantom(0, size=(32, 32, 32)).hu)
    case = {"ct": truth, "spacing": torch.tensor([10.0, 8.0, 11.0]), "xray": torch.zeros(1, 8, 8)}
    # posterior samples: the truth shifted by one voxel; their mean is a blur
    samples = [truth.roll((i, j, k), (0, 1, 2)) for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)]
    names = ["psnr", "gradient_spectrum", "noise_power_spectrum"]
    window = Window(-1000.0, 1000.0)
    sharp, mean = (score(v, case, window, metrics=names) for v in (samples[0], torch.stack(samples).mean(dim=0)))
    assert mean["psnr"] > sharp["psnr"] + 1.0
    for name in names[1:]:
        assert sharp[name] < 0.25 * mean[name], name
