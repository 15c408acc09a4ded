"""Which patients are registered to each other, and their velocities, cached one file a pair."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.checked_tensors import DamagedFile, open_checked, save_checked
from common.errors import UserError
from dataset.cases.store import in_processes, writes_cache
from dataset.morph.anatomy import Anatomy
from dataset.morph.registration import register

Pair = tuple[str, str]

log = logging.getLogger(__name__)


def neighbours_of(names: Sequence[str], count: int, seed: int) -> dict[str, list[str]]:
    """At least `count` other names for each name, or all: its neighbours in a ring of random order.

    The relation is symmetric, and the ring connects all names. It needs no image, so it is known before any is read.
    """
    ring = list(np.random.default_rng((seed, len(names))).permutation(sorted(names)))
    reach = min((count + 1) // 2, len(ring) // 2)
    steps = [step for step in range(-reach, reach + 1) if step]
    return {
        str(name): sorted({str(ring[(i + step) % len(ring)]) for step in steps} - {str(name)})
        for i, name in enumerate(ring)
    }


def pairs_of(neighbours: dict[str, list[str]]) -> list[Pair]:
    """Each pair of neighbours once, in order."""
    return sorted({(min(name, other), max(name, other)) for name in neighbours for other in neighbours[name]})


class Velocities:
    """Velocities between patients, read from files, made when they are missing; UserError if they cannot be written.

    Args:
        folder: for the files.
        file_of: name of the file of a pair, which must change with the content of its volumes.
        anatomy: the anatomy of a patient.
        cache_dir: the option above the folder, for the message.
    """

    def __init__(
        self,
        folder: Path,
        file_of: Callable[[Pair], str],
        anatomy: Callable[[str], Anatomy],
        cache_dir: str | Path,
    ):
        self.folder, self.file_of, self.anatomy, self.cache_dir = folder, file_of, anatomy, cache_dir
        self._kept: dict[Pair, Tensor | None] = {}

    def get(self, first: str, second: str) -> Tensor | None:
        """The velocity that maps points of `first` to those of `second`; None if their registration folds."""
        pair = (min(first, second), max(first, second))
        if pair not in self._kept:
            self._kept[pair] = self._read(pair)
        found = self._kept[pair]
        return found if found is None or pair == (first, second) else -found

    def prepare(self, pairs: Sequence[Pair], workers: int | None) -> None:
        """Registers the pairs without a file in processes, with a progress bar; a warning for each that folds."""
        todo = [pair for pair in pairs if not (self.folder / self.file_of(pair)).is_file()]
        if todo:
            for problem in in_processes(_Registrations(self, todo), workers, "Registering patients to each other"):
                if problem:
                    raise UserError(problem)
        for pair in pairs:
            if self.get(*pair) is None:
                log.warning("%s and %s: their registration folds, so no morph lies between them", *pair)

    def make(self, pair: Pair) -> Tensor | None:
        """Registers a pair and writes its file; None if it folds."""
        try:
            velocity = register(*(self.anatomy(name).coarse for name in pair), " and ".join(pair))
            content = {"velocity": velocity.half()}
        except UserError:
            velocity, content = None, {"refused": torch.ones(1)}
        with writes_cache(self.cache_dir):
            self.folder.mkdir(parents=True, exist_ok=True)
            save_checked(content, self.folder / self.file_of(pair))
        return None if velocity is None else content["velocity"].float()

    def _read(self, pair: Pair) -> Tensor | None:
        try:
            with open_checked(self.folder / self.file_of(pair)) as file:
                return file.get_tensor("velocity").float() if "velocity" in file.keys() else None  # noqa: SIM118
        except DamagedFile:
            return self.make(pair)


class _Registrations(Dataset):
    def __init__(self, velocities: Velocities, todo: list[Pair]):
        self.velocities, self.todo = velocities, todo

    def __len__(self) -> int:
        return len(self.todo)

    def __getitem__(self, index: int) -> str:
        """Registers pair `index`; "" or an error message for the user."""
        try:
            self.velocities.make(self.todo[index])
        except UserError as error:
            return str(error)
        return ""
