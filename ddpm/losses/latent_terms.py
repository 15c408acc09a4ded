"""Terms on the predicted clean latents, beside the pointwise loss, computed by frozen networks on decoded latents.

Each term returns one number per sample; its gradient reaches the denoiser through the frozen decoder. The networks are
not registered modules of the training, so no optimizer, average or checkpoint of the generator includes them.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ddpm.latent.base import LatentEncoder

Term = Callable[[Tensor, Tensor, LatentEncoder, torch.Generator], Tensor]
"""Predicted and true clean latents `(b, c, d, h, w)`, their encoder and a generator to one loss per sample `(b,)`."""


class GeneratorLosses:
    """Weighted terms by name, where each sample counts by `signal_t²` of its noisy latents, 0 at zero terminal SNR.

    At pure noise the best prediction of the clean latents is the blurred mean of all that fit the X-ray, where a term
    that favours sharpness misleads.
    """

    def __init__(self, terms: dict[str, Term], weights: dict[str, float]):
        self.terms, self.weights = terms, weights

    def __call__(
        self,
        predicted: Float[Tensor, "b c d h w"],
        clean: Float[Tensor, "b c d h w"],
        share: Float[Tensor, " b"],
        encoder: LatentEncoder,
        generator: torch.Generator,
        adversarial: bool = True,
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """The weighted sum, and the mean of each term for the log; `share` is `signal_t²` of each sample."""
        encoder.to(predicted.device)
        total, values = predicted.new_zeros(()), {}
        for name, term in self.terms.items():
            if adversarial or name != "adversarial":
                value = (share * term(predicted, clean, encoder, generator)).mean()
                total, values[name] = total + self.weights[name] * value, value.detach()
        return total, values


def excerpt(
    latents: list[Float[Tensor, "b c d h w"]], slicewise: bool, generator: torch.Generator, slices: int, side: int
) -> list[Tensor]:
    """The same part of all `latents`: `slices` random slices if `slicewise`, else a random box of at most `side`³."""
    size = latents[0].shape[2:]
    if slicewise:
        index = torch.randperm(size[0], generator=generator)[:slices].sort().values.to(latents[0].device)
        return [x.index_select(2, index) for x in latents]
    starts = [int(torch.randint(max(n - side, 0) + 1, (), generator=generator)) for n in size]
    box = tuple(slice(s, s + side) for s in starts)
    return [x[(slice(None), slice(None), *box)] for x in latents]
