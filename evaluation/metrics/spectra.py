"""Sharpness and texture: distances between gradient distributions and noise-power spectra of prediction and truth.

Both are zero for the truth and hardly depend on the position of structures: a posterior sample scores well, a blurred
mean does not, whatever its PSNR.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from evaluation.metrics.base import CaseView, Metric

BLOCK = 16  # voxels per side of the blocks whose spectra are averaged
BODY_SHARE = 0.5  # smallest share of a block inside the body
FAINTEST_HU = 1.0  # HU are stored as integers; a constant block would have -inf dB


def gradient_magnitude(
    volume: Float[Tensor, "*b d h w"], spacing: tuple[float, float, float]
) -> Float[Tensor, "*b d h w"]:
    """Length of the gradient in HU/mm, central differences (one-sided at the faces)."""
    parts = torch.gradient(volume, spacing=[float(s) for s in spacing], dim=(-3, -2, -1))
    return torch.stack([part.square() for part in parts]).sum(dim=0).sqrt()


def gradient_spectrum(
    prediction: Float[Tensor, "*b d h w"],
    truth: Float[Tensor, "d h w"],
    spacing: tuple[float, float, float],
    mask: Bool[Tensor, "d h w"],
) -> Float[Tensor, "*b"]:
    """Distance of the distributions of gradient magnitude inside `mask`, in HU/mm: the 1-Wasserstein distance.

    For equally many values on both sides it is the mean difference of the sorted values.
    """
    wanted = gradient_magnitude(truth, spacing)[mask].sort().values
    found = gradient_magnitude(prediction, spacing)[..., mask].sort(dim=-1).values
    return (found - wanted).abs().mean(dim=-1)


def block_spectra(
    volume: Float[Tensor, "*b d h w"], spacing: tuple[float, float, float], mask: Bool[Tensor, "d h w"] | None = None
) -> tuple[Float[Tensor, " k"], Float[Tensor, "*b n k"]]:
    """Frequencies in 1/mm up to the lowest Nyquist frequency, and the power in HU² mm³ of each of `n` blocks.

    `P(f) = (Δd Δh Δw / Σ w²) |FFT(w · block)|²`, averaged over directions: blocks of `BLOCK` voxels (fewer on shorter
    axes), half overlapping, at least half inside `mask`, without mean and linear trends, under a Hann window `w`.
    """
    size = [min(BLOCK, n) for n in volume.shape[-3:]]
    blocks = _blocks(volume, size)
    if mask is not None:
        inside = _blocks(mask.float(), size).mean(dim=(-3, -2, -1)) >= BODY_SHARE
        if inside.any():
            blocks = blocks[..., inside, :, :, :]
    d, h, w = (torch.hann_window(n + 2, periodic=False, device=volume.device)[1:-1] for n in size)
    window = d[:, None, None] * h[:, None] * w
    power = torch.fft.rfftn(_without_trend(blocks) * window, dim=(-3, -2, -1)).abs().square()
    return _radial(power * (math.prod(float(s) for s in spacing) / window.square().sum()), size, spacing)


def noise_power_spectrum(
    volume: Float[Tensor, "*b d h w"], spacing: tuple[float, float, float], mask: Bool[Tensor, "d h w"] | None = None
) -> tuple[Float[Tensor, " k"], Float[Tensor, "*b k"]]:
    """Frequencies in 1/mm and the noise-power spectrum in HU² mm³, the mean of `block_spectra`.

    Siewerdsen, Cunningham and Jaffray 2002, with the overlapping blocks of Welch 1967. White noise of standard
    deviation s has `s² Δd Δh Δw` at every frequency.
    """
    frequencies, power = block_spectra(volume, spacing, mask)
    return frequencies, power.mean(dim=-2)


def noise_power_distance(
    prediction: Float[Tensor, "*b d h w"],
    truth: Float[Tensor, "d h w"],
    spacing: tuple[float, float, float],
    mask: Bool[Tensor, "d h w"] | None = None,
) -> Float[Tensor, "*b"]:
    """Root mean square over frequencies of the difference of both spectra in dB.

    Decibels are averaged over blocks, because a few edges dominate a mean of powers. Powers below that of white noise
    of `FAINTEST_HU` are raised to it.
    """
    faintest = FAINTEST_HU**2 * math.prod(float(s) for s in spacing)

    def level(volume: Tensor) -> Tensor:
        power = block_spectra(volume, spacing, mask)[1]
        return 10.0 * torch.log10(power.clamp(min=faintest)).mean(dim=-2)

    return (level(prediction) - level(truth)).square().mean(dim=-1).sqrt()


def _blocks(volume: Float[Tensor, "*b d h w"], size: list[int]) -> Float[Tensor, "*b n x y z"]:
    for n in size:  # unfold appends the voxels of a block, so the next axis is again the third from the end
        volume = volume.unfold(-3, n, max(1, n // 2))
    return volume.flatten(-6, -4)


def _without_trend(blocks: Float[Tensor, "*b n x y z"]) -> Float[Tensor, "*b n x y z"]:
    """Subtracts the least squares fit of a constant and a slope along each axis, which are orthogonal on a grid."""
    blocks = blocks - blocks.mean(dim=(-3, -2, -1), keepdim=True)
    for axis in (-3, -2, -1):
        n = blocks.shape[axis]
        ramp = torch.arange(n, device=blocks.device, dtype=blocks.dtype) - (n - 1) / 2.0
        ramp = ramp.view(n, *(1,) * (-1 - axis))
        norm = ramp.square().mean() * blocks.shape[-3:].numel()
        slope = (blocks * ramp).sum(dim=(-3, -2, -1), keepdim=True) / norm
        blocks = blocks - slope * ramp
    return blocks


def _radial(power: Float[Tensor, "*b x y z"], size: list[int], spacing) -> tuple[Tensor, Tensor]:
    """Mean over shells of equal width in 1/mm; values that stand for two frequencies count twice."""
    kinds = (torch.fft.fftfreq, torch.fft.fftfreq, torch.fft.rfftfreq)
    axes = [f(n, d=float(s), dtype=torch.float64) for f, n, s in zip(kinds, size, spacing, strict=True)]
    radius = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(dim=0).sqrt().to(power.device)
    weight = torch.full_like(radius, 2.0, dtype=torch.float32)
    weight[..., 0] = 1.0
    if size[2] % 2 == 0:
        weight[..., -1] = 1.0
    nyquist = min(0.5 / float(s) for s in spacing)
    step = max(1.0 / (n * float(s)) for n, s in zip(size, spacing, strict=True))  # the coarsest resolution
    count = max(1, int(nyquist / step + 1e-6))
    shell = torch.floor(radius / step + 0.5 + 1e-6).long()  # rounds half up on every machine
    shell[shell > count] = 0  # not every axis reaches the corners
    flat = power.flatten(-3) * weight.flatten()
    total = torch.zeros(*flat.shape[:-1], count + 1, device=power.device).index_add(-1, shell.flatten(), flat)
    weights = torch.zeros(count + 1, device=power.device).index_add(0, shell.flatten(), weight.flatten())
    frequencies = step * torch.arange(1, count + 1, device=power.device)
    return frequencies, (total / weights)[..., 1:]


def _gradient_spectrum(view: CaseView) -> Float[Tensor, " m"]:
    return gradient_spectrum(view.predictions, view.truth, view.spacing, view.region("body"))


def _noise_power(view: CaseView) -> Float[Tensor, " m"]:
    # one volume at a time: half overlapping blocks hold every voxel eight times
    body = view.region("body")
    return torch.stack([noise_power_distance(v, view.truth, view.spacing, body) for v in view.predictions])


METRICS = (
    Metric(
        "gradient_spectrum",
        "gradient spectrum, HU/mm",
        _gradient_spectrum,
        "1-Wasserstein distance of the gradient magnitudes in the truth's body to the truth's, HU/mm",
        unit="HU/mm",
        best="low",
        digits=2,
        default=True,
    ),
    Metric(
        "noise_power_spectrum",
        "noise-power spectrum, dB",
        _noise_power,
        f"RMS over frequencies of the difference in dB to the truth's, dB averaged over {BLOCK}-voxel blocks: half "
        "overlapping, at least half in the body, detrended, Hann window, shells up to the lowest Nyquist frequency",
        unit="dB",
        best="low",
        digits=2,
        default=True,
    ),
)
