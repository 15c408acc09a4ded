"""The order of training samples as a pure function of (seed, position), so that a run can resume at any batch."""

from collections.abc import Iterator

import numpy as np
from torch import distributed
from torch.utils.data import Sampler


class StepBatchSampler(Sampler[list[tuple[int, int]]]):
    """Batches of `(index, step)`: an endless stream of seeded permutations, cut into batches.

    Epoch `e` of the stream is a permutation seeded by `(seed, e)`. Batch `step` starts at `step * batch_size * world
    size` of the stream, across epochs, and rank `r` takes its r-th slice. So the samples of a step do not depend on
    interruptions or the number of workers, and the global batch does not depend on the number of processes.

    `size` is that of the data set, `batch_size` that of one process, `num_batches` the length of the whole run and of
    this sampler, `start` the first step to yield.
    """

    def __init__(self, size: int, batch_size: int, num_batches: int, seed: int = 0, start: int = 0):
        for name, value in (
            ("size", size),
            ("batch_size", batch_size),
            ("num_batches", num_batches),
            ("start", start),
        ):
            if value < (lowest := int(name != "start")):
                raise ValueError(f"{name}={value}: must be at least {lowest}")
        self.size, self.batch_size, self.num_batches = int(size), int(batch_size), int(num_batches)
        self.seed, self.start = int(seed), int(start)
        self._epoch, self._order = -1, []

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.start, self.num_batches):
            yield self.batch(step)

    def batch(self, step: int) -> list[tuple[int, int]]:
        """The samples `(index, step)` of this process in batch number `step`."""
        parallel = distributed.is_available() and distributed.is_initialized()
        rank, world = (distributed.get_rank(), distributed.get_world_size()) if parallel else (0, 1)
        first = (step * world + rank) * self.batch_size
        return [(self._index(position), step) for position in range(first, first + self.batch_size)]

    def _index(self, position: int) -> int:
        epoch, offset = divmod(position, self.size)
        if epoch != self._epoch:
            # torch's CPU generator uses only 32 bits of a seed, too few for two numbers
            self._epoch = epoch
            self._order = np.random.default_rng((self.seed, epoch)).permutation(self.size).tolist()
        return self._order[offset]
