"""Batches with a non-finite loss: they stop the training and name their cases, or are skipped and counted."""

import logging

from torch import distributed

MAX_CONSECUTIVE = 10  # more in a row mean that the network has diverged

log = logging.getLogger(__name__)


class SkippedBatches(list):
    """The skipped batches, one phrase each.

    Args:
        skip: skip such a batch; False stops at the first one.
    """

    def __init__(self, skip: bool):
        super().__init__()
        self.skip, self._consecutive = skip, 0

    def reset(self) -> None:
        """Ends a run of consecutive skipped batches, after a batch with a finite loss."""
        self._consecutive = 0

    def add(self, loss: float, batch: dict) -> None:
        """Records a skipped batch.

        Raises FloatingPointError with its cases if skipping is off, too many batches in a row were skipped, or
        several processes train together (the others would wait for this one's gradient).
        """
        name = f"batch {int(batch['step'][0])} (cases {', '.join(batch.get('id', ['not named']))})"
        self._consecutive += 1
        single = not (distributed.is_initialized() and distributed.get_world_size() > 1)
        if not (self.skip and single) or self._consecutive > MAX_CONSECUTIVE:
            again = f", as in the {MAX_CONSECUTIVE} batches before it" if self._consecutive > MAX_CONSECUTIVE else ""
            raise FloatingPointError(
                f"the loss is {loss} at {name}{again}: check these cases, lower model.train_lr or set "
                "model.precision=32; on one device model.skip_nonfinite=true skips such a batch and counts it; "
                "the last checkpoint is unchanged"
            )
        self.append(name)
        log.warning("skipped, its loss is %s: %s", loss, name)
