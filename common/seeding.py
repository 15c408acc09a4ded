"""Random generators seeded by a sequence of integers."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def normal(shape: Sequence[int], words: Sequence[int]) -> Tensor:
    """Standard normal noise on the CPU, determined by `words`."""
    return torch.randn(tuple(shape), generator=generator(words))


def generator(words: Sequence[int]) -> torch.Generator:
    """A CPU generator seeded by NumPy's `SeedSequence` of `words`, integers of at least 0."""
    state = np.random.SeedSequence([int(w) for w in words]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))
