"""Terms on the predicted clean latents, beside the pointwise loss, computed by frozen networks on decoded latents.

Each term gives one number a sample, and its gradient reaches the denoiser through the frozen decoder. No network here
is a registered module of the training: no optimizer, average or checkpoint of the generator meets it.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ddpm.latent.base import LatentEncoder

Term = Callable[[Tensor, Tensor, LatentEncoder, torch.Generator], Tensor]
"""Predicted and true clean latents `(b, c, d, h, w)`, their encoder and a generator to one loss a sample `(b,)`."""


class GeneratorLosses:
    """Weighted terms, each sample in proportion to the signal in its noisy latents.

    At pure noise the best prediction of the clean latents is the blurred mean of all that fits the X-ray: a term that
    asks for sharpness there asks for a lie. So a sample counts by `signal_t²`, which is 0 at zero terminal SNR.

    Args:
        terms: by name.
        weights: of each of them, above 0.
    """

    def __init__(self, terms: dict[str, Term], weights: dict[str, float]):
        if terms.keys() != weights.keys():
            raise ValueError(f"terms {sorted(terms)} but weights {sorted(weights)}")
        self.terms, self.weights = dict(terms), dict(weights)

    def __call__(
        self,
        predicted: Float[Tensor, "b c d h w"],
        clean: Float[Tensor, "b c d h w"],
        share: Float[Tensor, " b"],
        encoder: LatentEncoder,
        generator: torch.Generator,
        names: list[str] | None = None,
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """The weighted sum, and the mean of each term for the log.

        Args:
            share: `signal_t²` of each sample.
            names: of the terms that take part, by default all.
        """
        encoder.to(predicted.device)
        total, values = predicted.new_zeros(()), {}
        for name in self.terms if names is None else names:
            value = (share * self.terms[name](predicted, clean, encoder, generator)).mean()
            total, values[name] = total + self.weights[name] * value, value.detach()
        return total, values

    def active(self, adversarial: bool) -> list[str]:
        """Names of the terms that take part now, with or without the adversarial one."""
        return [name for name in self.terms if adversarial or name != "adversarial"]


def excerpt(
    latents: list[Float[Tensor, "b c d h w"]], slicewise: bool, generator: torch.Generator, slices: int, side: int
) -> list[Tensor]:
    """The same part of each of `latents`: `slices` random slices where they decode one by one, else a random box.

    Args:
        side: of the box, in latent voxels, at most.
    """
    size = latents[0].shape[2:]
    if slicewise:
        index = torch.randperm(size[0], generator=generator)[:slices].sort().values.to(latents[0].device)
        return [x.index_select(2, index) for x in latents]
    starts = [int(torch.randint(max(n - side, 0) + 1, (), generator=generator)) for n in size]
    box = tuple(slice(s, s + side) for s in starts)
    return [x[(slice(None), slice(None), *box)] for x in latents]


def decode_for_loss(encoder: LatentEncoder, latents: Float[Tensor, "b c d h w"]) -> Float[Tensor, "b 1 D H W"]:
    """Volumes near [-1, 1], not clipped: clipping would stop the gradient where the prediction is furthest off."""
    return encoder.decode_raw(encoder.unstandardise(latents))
