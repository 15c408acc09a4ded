"""Running the generator over many X-rays: which checkpoint, which device, in what batches, with one progress bar."""

import logging
from collections.abc import Iterator

from jaxtyping import Float
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from common.errors import UserError

log = logging.getLogger(__name__)


def sample_volumes(
    pipeline,
    xrays: Float[Tensor, "n v 1 h w"],
    poses: Float[Tensor, "n v 9"] | None,
    ids: list[str],
    samples: int,
    batch_size: int,
    seed: int = 0,
    extents: Float[Tensor, "n 3"] | None = None,
) -> Iterator[tuple[range, Float[Tensor, "b s d h w"]]]:
    """Volumes in HU for every X-ray, batch by batch, each with the positions of its X-rays.

    `batch_size` counts volumes, so more samples mean fewer X-rays at a time. The noise of a case depends on the seed,
    its id and the number of the sample, never on the batch it stands in. `extents` are the sizes of the volumes in mm;
    sampler, steps and guidance are those that the pipeline was set to.

    Raises:
        UserError: `samples` or `batch_size` is below 1.
    """
    for name, value in (("samples", samples), ("batch_size", batch_size)):
        if value < 1:
            raise UserError(f"{name}={value}: give at least 1")
    together = max(1, batch_size // samples)
    starts = range(0, len(xrays), together)
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    with Progress(*columns, TimeRemainingColumn()) as bar:
        task = bar.add_task("denoising steps", total=None)
        for number, start in enumerate(starts):
            part = range(start, min(start + together, len(xrays)))

            def advance(step: int, total: int, number: int = number) -> None:
                bar.update(task, completed=number * total + step, total=len(starts) * total)

            result = pipeline(
                xrays[start : part.stop],
                None if poses is None else poses[start : part.stop],
                num_samples=samples,
                seed=seed,
                ids=[ids[i] for i in part],
                extent=None if extents is None else extents[start : part.stop],
                batch_size=batch_size,
                progress=advance,
            )
            yield part, result.volumes.float().cpu()
