"""Batches whose loss is not finite: they end the training and name their cases, or are left out and counted."""

import logging

from torch import distributed

IN_A_ROW = 10  # more of them are no bad cases but a network that has diverged

log = logging.getLogger(__name__)


class LeftOut(list):
    """The batches that were left out, a phrase each.

    Args:
        skip: leaves such a batch out; else the first one stops.
    """

    def __init__(self, skip: bool):
        super().__init__()
        self.skip, self._in_a_row = skip, 0

    def fine(self) -> None:
        """A batch with a finite loss was there."""
        self._in_a_row = 0

    def take(self, loss: float, batch: dict) -> None:
        """Remembers a batch.

        Raises:
            FloatingPointError: naming its cases, where none is to be left out, too many follow one another, or
                several processes train together.
        """
        what = f"batch {int(batch['step'][0])} (cases {', '.join(batch.get('id', ['not named']))})"
        self._in_a_row += 1
        alone = not (
            distributed.is_initialized() and distributed.get_world_size() > 1
        )  # else others wait for a gradient
        if not (self.skip and alone) or self._in_a_row > IN_A_ROW:
            again = f", as in the {IN_A_ROW} batches before it" if self._in_a_row > IN_A_ROW else ""
            raise FloatingPointError(
                f"the loss is {loss} at {what}{again}: look at these cases, lower model.train_lr or set "
                "model.precision=32; on one device model.skip_nonfinite=true leaves such a batch out and counts it; "
                "the last checkpoint is untouched"
            )
        self.append(what)
        log.warning("left out, its loss is %s: %s", loss, what)
