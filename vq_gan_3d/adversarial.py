"""Hinge losses of a patch discriminator (Lim and Ye, "Geometric GAN", 2017), of scores that tanh bounds to [-1, 1]."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class Discriminator:
    """The discriminator of a VQ-GAN training."""

    network: nn.Module  # volumes to a list whose last tensor holds one score per patch
    optimizer: partial  # completed with its parameters
    first_batch: int = 0  # from which it takes part
    weight: float = 0.1  # of the adversarial term in the autoencoder's loss


def patch_scores(discriminator: nn.Module, x: Float[Tensor, "b c d h w"], frozen: bool = False) -> Tensor:
    """One score per patch; with `frozen` only `x` gets a gradient."""
    discriminator.requires_grad_(not frozen)
    scores = discriminator(x)[-1]
    discriminator.requires_grad_(True)
    return scores


def discriminator_loss(real: Tensor, fake: Tensor, reduce: Callable[[Tensor], Tensor] = torch.mean) -> Tensor:
    """Half the sum of the hinge losses of true and generated patches, each reduced by `reduce`."""
    return 0.5 * (reduce(F.relu(1.0 - real)) + reduce(F.relu(1.0 + fake)))
