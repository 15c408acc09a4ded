"""Samples the generator for many X-rays, in batches, with a progress bar over all denoising steps."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral

from jaxtyping import Float
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from common.errors import UserError
from evaluation.generation.agreement import Agreement
from evaluation.generation.model_inputs import ModelInputs

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sampling:
    """Volumes per X-ray, seed of the noise, and volumes generated at once.

    Raises UserError for numbers below 1, a negative seed, and what is no whole number.
    """

    samples: int = 1
    seed: int = 0
    batch_size: int = 4

    def __post_init__(self):
        for name, least in (("samples", 1), ("batch_size", 1), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
                raise UserError(f"{name}={value}: give a whole number of at least {least}")


@contextmanager
def terminal_bar() -> Iterator[Callable[[int, int], None]]:
    """A progress bar on the terminal; yields a function of the steps done and all steps."""
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    with Progress(*columns, TimeRemainingColumn()) as bar:
        task = bar.add_task("denoising steps", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def sample_volumes(
    pipeline: Callable, inputs: ModelInputs, ids: Sequence[str], sampling: Sampling, progress_bar=terminal_bar
) -> Iterator[tuple[range, Float[Tensor, "b s d h w"]]]:
    """Yields volumes in HU batch by batch with the positions of their X-rays, by the sampler of the pipeline.

    The noise of a volume depends on the seed, the id of its case and the number of the sample, not on the batch.
    Logs `warn_of_contradictions`.
    """
    for part, volumes, compared in compared_volumes(pipeline, inputs, ids, sampling, progress_bar):
        warn_of_contradictions(pipeline, [ids[i] for i in part], compared)
        yield part, volumes


def compared_volumes(
    pipeline: Callable, inputs: ModelInputs, ids: Sequence[str], sampling: Sampling, progress_bar=terminal_bar
) -> Iterator[tuple[range, Float[Tensor, "b s d h w"], list[Agreement]]]:
    """As `sample_volumes`, with the agreement of the samples with each X-ray."""
    together, count = max(1, sampling.batch_size // sampling.samples), len(inputs.xrays)
    starts = range(0, count, together)
    with progress_bar() as show:
        for number, start in enumerate(starts):
            part = range(start, min(start + together, count))

            def advance(step: int, total: int, number: int = number) -> None:
                show(number * total + step, len(starts) * total)

            guides = inputs.guides[start : part.stop]
            guided = {"guides": guides} if any(guide is not None for guide in guides) else {}
            result = pipeline(
                inputs.xrays[start : part.stop],
                inputs.poses[start : part.stop],
                num_samples=sampling.samples,
                seed=sampling.seed,
                ids=[ids[i] for i in part],
                extent=inputs.extents[start : part.stop],
                batch_size=sampling.batch_size,
                progress=advance,
                **guided,
                allow_any_picture=True,  # their reader has checked them
            )
            yield part, result.volumes.float().cpu(), [Agreement.of(result, row) for row in range(len(part))]


def warn_of_contradictions(pipeline, names: Sequence[str], compared: Sequence[Agreement]) -> list[list[str]]:
    """The warnings about each X-ray that its samples do not agree with (`Agreement.warnings`), after logging them."""
    found = [one.warnings(pipeline) for one in compared]
    for name, lines in zip(names, found, strict=True):
        for line in lines:
            log.warning("%s: %s", name, line)
    return found
