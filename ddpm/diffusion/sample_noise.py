"""Reproducible noise of generation, in antithetic pairs.

Two samples of opposite noise have opposite errors under a denoiser that is close to linear, so their mean is closer
to the posterior mean than that of two independent samples (Hammersley and Morton, "A new Monte Carlo technique:
antithetic variates", 1956). The distribution of each sample is unchanged.
"""

import zlib

import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, SchedulerMixin
from jaxtyping import Float
from torch import Tensor

from common.seeding import generator


def can_pair(scheduler: SchedulerMixin) -> bool:
    """Whether a sampler can draw opposite noise in every step; DDPM draws it from generators, which cannot."""
    return not isinstance(scheduler, DDPMScheduler)


class SampleNoise:
    """The noise of a batch of samples, of which sample j of X-ray `name` depends on `(seed, name, j)` alone.

    `names` and `numbers` j have one entry per sample; with `antithetic` an odd sample has the opposite noise of the
    sample before it.
    """

    def __init__(self, seed: int, names: list[str], numbers: list[int], antithetic: bool):
        if seed < 0:
            raise ValueError(f"seed={seed}: give 0 or more")
        self.signs = [-1.0 if antithetic and j % 2 else 1.0 for j in numbers]
        self._own = [(seed, name, j) for name, j in zip(names, numbers, strict=True)]
        self._shared = [(seed, n, j - (sign < 0)) for (seed, n, j), sign in zip(self._own, self.signs, strict=True)]
        self._streams: list[torch.Generator] | None = None

    def start(self, shape: tuple[int, ...]) -> Float[Tensor, "b c d h w"]:
        """Initial noise of the samples."""
        return self._draw(shape, [_generator(*key, "start") for key in self._shared])

    def residual(self, size: tuple[int, int, int]) -> Float[Tensor, "b D H W"]:
        """White noise of the decoder's residual (`ddpm.latent.decoder_residual`) of the samples."""
        return self._draw(size, [_generator(*key, "residual") for key in self._shared])

    def step(self, scheduler: SchedulerMixin, shape: tuple[int, ...]) -> dict:
        """Keyword arguments for one `step` of a stochastic sampler.

        DPM-Solver++ takes the noise itself. DDPM draws it from generators: ValueError for pairs of opposite noise.
        """
        takes_noise = isinstance(scheduler, DPMSolverMultistepScheduler)
        if not takes_noise and min(self.signs) < 0:
            raise ValueError(f"{type(scheduler).__name__} cannot draw opposite noise; sample without antithetic pairs")
        if self._streams is None:
            keys = self._shared if takes_noise else self._own
            self._streams = [_generator(*key, "steps") for key in keys]
        return {"variance_noise": self._draw(shape, self._streams)} if takes_noise else {"generator": self._streams}

    def _draw(self, shape: tuple[int, ...], streams: list[torch.Generator]) -> Tensor:
        return torch.stack(
            [sign * torch.randn(shape, generator=s) for sign, s in zip(self.signs, streams, strict=True)]
        )


def _generator(seed: int, name: str, sample: int, purpose: str) -> torch.Generator:
    return generator([seed, zlib.crc32(name.encode()), sample, zlib.crc32(purpose.encode())])
