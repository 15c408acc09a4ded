"""Random numbers that depend on given integers alone: seeded generators and normal noise."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def normal(shape: Sequence[int], words: Sequence[int]) -> Tensor:
    """Normal noise on the CPU, the same for the same words."""
    return torch.randn(tuple(shape), generator=generator(words))


def generator(words: Sequence[int]) -> torch.Generator:
    """Random numbers that depend on these words, none of them negative, and on nothing else."""
    state = np.random.SeedSequence([int(w) for w in words]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))
