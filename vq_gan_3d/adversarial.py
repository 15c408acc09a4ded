"""Hinge losses of a patch discriminator (Lim and Ye, "Geometric GAN", 2017)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class Discriminator:
    """The discriminator of a VQ-GAN training.

    Args:
        network: volumes to a list whose last tensor holds one score per patch.
        optimizer: partial, completed with its parameters.
        first_batch: from which it takes part.
        weight: of the adversarial term in the autoencoder's loss.
    """

    network: nn.Module
    optimizer: partial
    first_batch: int = 0
    weight: float = 0.1


def patch_scores(discriminator: nn.Module, x: Float[Tensor, "b c d h w"], frozen: bool = False) -> Tensor:
    """One score per patch; with `frozen` the gradient reaches `x` alone."""
    if frozen:
        discriminator.requires_grad_(False)
    scores = discriminator(x)[-1]
    if frozen:
        discriminator.requires_grad_(True)
    return scores


def discriminator_loss(real: Tensor, fake: Tensor, reduce: Callable[[Tensor], Tensor] = torch.mean) -> Tensor:
    """Half the sum of the hinge losses of true and generated patches, each reduced by `reduce`."""
    return 0.5 * (reduce(F.relu(1.0 - real)) + reduce(F.relu(1.0 + fake)))
