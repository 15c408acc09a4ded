"""The condition of the denoiser: embedding, lifted features, tokens and linear prior of an X-ray."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ddpm.conditioning.views import mean_over_views
from ddpm.xray_encoder.base import XrayFeatures


class Condition(NamedTuple):
    """Keyword arguments of the denoiser; None where a form is off."""

    embedding: Float[Tensor, "b e"]
    features: Float[Tensor, "b f d h w"] | None = None
    tokens: Float[Tensor, "b n t"] | None = None
    prior: Float[Tensor, "b c d h w"] | None = None
    prior_std: Float[Tensor, "b c d h w"] | None = None

    def rows(self, index: Int[Tensor, " m"]) -> "Condition":
        """The conditions of the X-rays at `index`."""
        return Condition(*(part if part is None else part[index] for part in self))

    def float(self) -> "Condition":
        """In float32."""
        return Condition(*(part if part is None else part.float() for part in self))


def make_condition(
    encoded: XrayFeatures,
    lift: nn.Module | None,
    pose: Float[Tensor, "b v 9"],
    extent: Float[Tensor, "b 3"],
    size: tuple[int, int, int],
    token_grid: int = 0,
    prior: Float[Tensor, "b c d h w"] | None = None,
    prior_std: Float[Tensor, "b c d h w"] | None = None,
    present: Bool[Tensor, "b v"] | None = None,
) -> Condition:
    """Embedding (mean over the views), lifted features, tokens for attention, and the linear prior with its deviation.

    A view that is not `present` takes part in none of them; None: all are present. Its tokens are 0, so that they add
    nothing to what the attention collects, whose key and value maps have no bias.

    `lift` resamples the maps on the latent grid of `size`; `token_grid` is the number of tokens per side, to which the
    maps are averaged for cross-attention.
    """
    features = None if lift is None else lift(encoded.maps, pose, extent, size, present)
    tokens = None
    if token_grid:
        b, v = encoded.maps.shape[:2]
        pooled = F.adaptive_avg_pool2d(encoded.maps.flatten(0, 1), token_grid)
        tokens = pooled.flatten(2).transpose(1, 2).unflatten(0, (b, v))
        tokens = tokens if present is None else torch.where(present[:, :, None, None], tokens, 0.0)
        tokens = tokens.flatten(1, 2)
    return Condition(mean_over_views(encoded.embedding, present), features, tokens, prior, prior_std)
