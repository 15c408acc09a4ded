"""The detail that a latent encoder loses, as a random field: zero mean, the measured deviation and correlation.

A sample of latents decodes to a volume without this detail, so samples alone vary less than patients do. The residual
`truth - decode(encode(truth))` of training volumes is modelled as `s(x) g(x)`: `s` is its root mean square by grey
level and by edge strength of the decoded volume at x, `g` a stationary Gaussian field of unit variance with the
autocorrelation of `residual / s`. `g` is white noise filtered in frequency space, so it is periodic.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Bool, Float
from torch import Tensor

from ddpm.diffusion.sample_noise import SampleNoise

SHRINKAGE = 100  # voxels of the mean over grey levels that are added to each cell of the table
FAINT = 0.1  # of the root mean square deviation: below, voxels have no part in the correlation
NARROW = 1e-3  # of the range [-1, 1]: edge strength at which its logarithmic scale begins
WIDE = 1.0  # edge strength at which it ends

Pairs = Sequence[tuple[Float[Tensor, "D H W"], Float[Tensor, "D H W"], Bool[Tensor, "D H W"] | None]]


class DecoderResidual(ModelMixin, ConfigMixin):
    """Measured on pairs of true and decoded volumes in [-1, 1]; `draw` gives a residual for a decoded volume.

    Args:
        levels: grey levels of the decoded volume, equal parts of [-1, 1].
        edges: steps of its edge strength on a logarithmic scale: the standard deviation of 3×3×3 voxels.
        lags: largest distance in voxels of the autocorrelation, along every axis.
    """

    @register_to_config
    def __init__(self, levels: int = 24, edges: int = 12, lags: int = 12):
        super().__init__()
        self.register_buffer("deviation", torch.zeros(levels, edges))  # of the range [-1, 1]
        correlation = torch.zeros(lags + 1, lags + 1, lags + 1)  # by absolute lag along each axis
        correlation[0, 0, 0] = 1.0
        self.register_buffer("correlation", correlation)

    @torch.no_grad()
    def fit(self, pairs: Pairs) -> "DecoderResidual":
        """Measures the residual on `(truth, decoded, scanned or None)`; a `ValueError` without a scanned voxel."""
        squares, counts = (torch.zeros(self.deviation.numel(), dtype=torch.float64) for _ in range(2))
        for truth, decoded, scanned in pairs:
            mask = torch.ones_like(truth, dtype=torch.bool) if scanned is None else scanned
            cells, square = self._cells(decoded)[mask], (truth - decoded)[mask].double().square()
            squares.index_add_(0, cells, square)
            counts.index_add_(0, cells, torch.ones_like(square))
        if not counts.any():
            raise ValueError("no scanned voxel to measure the decoder's residual on")
        squares, counts = (sums.view_as(self.deviation) for sums in (squares, counts))
        # cells that training volumes hardly reach take the mean over grey levels, and without it the mean of all
        overall = squares.sum() / counts.sum()
        by_edge = (squares.sum(dim=0) + SHRINKAGE * overall) / (counts.sum(dim=0) + SHRINKAGE)
        self.deviation.copy_(((squares + SHRINKAGE * by_edge) / (counts + SHRINKAGE)).sqrt())
        self._fit_correlation(pairs, FAINT * float(overall.sqrt()))
        return self

    def _fit_correlation(self, pairs: Sequence, faint: float) -> None:
        """The mean product of standardised residuals by their lag, over voxels whose deviation is above `faint`."""
        lags = self.config.lags
        total, count = (torch.zeros_like(self.correlation, dtype=torch.float64) for _ in range(2))
        for truth, decoded, scanned in pairs:
            deviation = self.spread(decoded)
            mask = deviation > faint if scanned is None else (deviation > faint) & scanned
            standardised = torch.where(mask, (truth - decoded) / deviation, 0.0)
            total += _by_absolute_lag(standardised, lags)
            count += _by_absolute_lag(mask.float(), lags)
        if total[0, 0, 0] > 0:
            correlation = torch.where(count > 0.5, total / count.clamp_min(0.5), 0.0)
            self.correlation.copy_(correlation / correlation[0, 0, 0])

    def spread(self, decoded: Float[Tensor, "D H W"]) -> Float[Tensor, "D H W"]:
        """Standard deviation of the residual of a decoded volume in [-1, 1]."""
        return self.deviation.float().flatten()[self._cells(decoded)]

    def draw(self, decoded: Float[Tensor, "D H W"], white: Float[Tensor, "D H W"]) -> Float[Tensor, "D H W"]:
        """A residual of a decoded volume in [-1, 1], from white noise of unit variance; linear in the noise."""
        size = tuple(white.shape)
        amplitude = self._power(size).sqrt().to(white.device)
        field = torch.fft.irfftn(torch.fft.rfftn(white) * amplitude, s=size)
        return self.spread(decoded) * field

    def _cells(self, decoded: Float[Tensor, "D H W"]) -> Tensor:
        levels, edges = self.deviation.shape
        level = ((decoded + 1.0) * (levels / 2.0)).long().clamp(0, levels - 1)
        strength = _edge_strength(decoded).clamp(NARROW, WIDE).log()
        low, high = torch.tensor([NARROW, WIDE]).log().tolist()
        edge = ((strength - low) * (edges / (high - low))).long().clamp(0, edges - 1)
        return level * edges + edge

    def _power(self, size: tuple[int, int, int]) -> Float[Tensor, "D H W2"]:
        """Power spectrum of `g` on the grid of `rfftn`, with a mean of 1.

        The autocorrelation is tapered to 0 in the outer half of its lags; what the cut leaves below 0 is set to 0.
        """
        lags, kernel = self.config.lags, self.correlation.float()
        for axis, side in enumerate(size):
            reach = min(lags, (side - 1) // 2)
            lag = torch.arange(reach + 1, device=kernel.device)
            outside = (2.0 * lag / (lags + 1) - 1.0).clamp_min(0.0)
            taper = (0.5 + 0.5 * torch.cos(torch.pi * outside)).view([-1 if a == axis else 1 for a in range(3)])
            kernel = kernel.narrow(axis, 0, reach + 1) * taper
            mirrored = kernel.narrow(axis, 1, reach).flip(axis)
            gap = list(kernel.shape)
            gap[axis] = side - 2 * reach - 1
            kernel = torch.cat([kernel, kernel.new_zeros(gap), mirrored], dim=axis)
        power = torch.fft.fftn(kernel).real.clamp_min(0.0)
        return (power / power.mean())[..., : size[-1] // 2 + 1]


def with_residual(
    pipeline, samples: Float[Tensor, "b s D H W"], ids: Sequence[str], seed: int
) -> Float[Tensor, "b s D H W"]:
    """Samples in HU with the residual of the pipeline's decoder, clipped to the window; unchanged without one.

    The residual of a sample depends on its volume, `seed`, its id and its number alone; with antithetic pairs that of
    an odd sample has the opposite noise of the one before, so that means of pairs hardly change.
    """
    if pipeline.residual is None:
        return samples
    window, found = pipeline.window, samples.clone()
    residual_of = getattr(pipeline, "residual_of", lambda number: pipeline.residual)  # an ensemble has several
    for volumes, name in zip(found, ids, strict=True):
        for number, volume in enumerate(volumes):
            part = residual_of(number)
            noise = SampleNoise(seed, [name], [number], pipeline.antithetic).residual(tuple(volume.shape))[0]
            decoded = window.normalise(volume.to(part.device, torch.float32))
            residual = part.draw(decoded, noise.to(part.device)) * (window.width / 2.0)
            volume.add_(residual.to(volume)).clamp_(window.low, window.high)
    return found


def _edge_strength(volume: Float[Tensor, "D H W"]) -> Float[Tensor, "D H W"]:
    """Standard deviation of the 3×3×3 voxels around each."""
    centred = (volume - volume.mean())[None, None].float()  # less rounding in the difference of squares
    padded = F.pad(torch.cat([centred, centred.square()]), (1,) * 6, mode="replicate")
    mean, square = F.avg_pool3d(padded, 3, stride=1)[:, 0]
    return (square - mean.square()).clamp_min(0.0).sqrt()


def _by_absolute_lag(field: Float[Tensor, "D H W"], lags: int) -> Float[Tensor, "l l l"]:
    """Sum of the products of values by their absolute lag along each axis, without wrapping around."""
    size = [side + lags for side in field.shape]
    power = torch.fft.rfftn(field.double(), s=size).abs().square()
    products = torch.fft.irfftn(power, s=size)
    for axis, side in enumerate(size):
        lag = torch.arange(lags + 1)
        products = products.index_select(axis, lag) + products.index_select(axis, (side - lag) % side)
    scale = torch.ones(lags + 1, dtype=torch.float64)
    scale[0] = 0.5  # lag 0 was added to itself
    return products * scale[:, None, None] * scale[:, None] * scale
