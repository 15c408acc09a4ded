"""What a data set asks to be done to its X-rays whenever a sample is made of a case."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from common.errors import UserError
from dataset.imaging.volume import Volume
from dataset.xray.augmentation import FilmAugmentation
from dataset.xray.lung_alignment import CHOICES as ALIGNMENTS


@dataclass(frozen=True)
class XrayHandling:
    """What a source asks to be done to its X-rays when a sample is made of a case.

    Attributes:
        film: random changes in training, or None (`dataset.film`).
        align: `lungs` lays films without a pose by their lungs (`dataset.xray.lung_alignment`), `none` leaves them.
        render: makes X-rays of a volume at given poses, for augmentation by projection.

    Raises:
        UserError: another word for `align`.
    """

    film: FilmAugmentation | None = None
    align: str = "none"
    render: Callable[[Volume, Tensor, tuple[int, int]], Tensor] | None = None

    def __post_init__(self):
        if self.align not in ALIGNMENTS:
            raise UserError(f"dataset.align={self.align}: choose {' or '.join(ALIGNMENTS)}")

    def describe(self) -> dict:
        """Plain JSON."""
        return {"align": self.align, "film": None if self.film is None else self.film.describe()}
