"""The options for X-rays that a data source sets and that apply to each sample of a case."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from common.errors import UserError
from dataset.imaging.volume import Volume
from dataset.xray.augmentation import XrayAugmentation
from dataset.xray.lung_alignment import CHOICES as ALIGNMENTS


@dataclass(frozen=True)
class XrayOptions:
    """Options for the X-rays of a data source."""

    augmentation: XrayAugmentation | None = None  # random changes in training
    align: str = "none"  # `lungs` aligns X-rays without a pose by their lungs (`dataset.xray.lung_alignment`)
    # renders X-rays of a volume at given poses with random words of their noise, for augmentation with `reproject`
    render: Callable[[Volume, Tensor, tuple[int, int], tuple[int, ...]], Tensor] | None = None

    def __post_init__(self):
        if self.align not in ALIGNMENTS:
            raise UserError(f"dataset.align={self.align}: choose {' or '.join(ALIGNMENTS)}")

    def describe(self) -> dict:
        """Plain JSON."""
        return {"align": self.align, "film": None if self.augmentation is None else self.augmentation.describe()}
