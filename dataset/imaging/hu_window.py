"""The linear map between Hounsfield units and the model range [-1, 1]."""

from dataclasses import dataclass

import torch
from torch import Tensor

from common.errors import UserError

AIR_HU = -1024.0
REPROJECTION_LIMIT_HU = -900.0  # a window that starts above clips the lungs and falsifies line integrals

WINDOWS = {"ctpa": (-200.0, 500.0), "lidc": (-1200.0, 600.0), "wide": (-1000.0, 1000.0)}


@dataclass(frozen=True)
class Window:
    """A HU interval `[low, high]`, mapped linearly to `[-1, 1]` and clipped; UserError if `high <= low`."""

    low: float
    high: float

    def __post_init__(self):
        if not self.high > self.low:
            raise UserError(f"dataset.window=[{self.low:g}, {self.high:g}]: the upper HU must be above the lower one")

    @classmethod
    def parse(cls, value) -> "Window":
        """A window from its name (`ctpa`, `lidc`, `wide`) or from two numbers in HU."""
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            if value not in WINDOWS:
                choices = ", ".join(WINDOWS)
                raise UserError(f"dataset.window={value}: unknown; choose {choices} or two HU such as [-1000, 1000]")
            return cls(*WINDOWS[value])
        limits = [float(hu) for hu in value]
        if len(limits) != 2:
            raise UserError(f"dataset.window={limits}: give two HU such as [-1000, 1000]")
        return cls(*limits)

    @property
    def width(self) -> float:
        """Data range in HU for PSNR and SSIM."""
        return self.high - self.low

    @property
    def keeps_line_integrals(self) -> bool:
        """Whether reprojections of a volume in this window can be compared with an X-ray."""
        return self.low <= REPROJECTION_LIMIT_HU

    def normalise(self, hu: Tensor, out: Tensor | None = None) -> Tensor:
        """HU of any shape and dtype mapped to `[-1, 1]` in floating point, clipped; written to `out` if given."""
        # in place: allocation would take longer than the arithmetic
        kind = hu.dtype if hu.is_floating_point() else torch.float32
        found = torch.empty(hu.shape, dtype=kind, device=hu.device) if out is None else out
        return found.copy_(hu).sub_(self.low).mul_(2.0 / self.width).sub_(1.0).clamp_(-1.0, 1.0)

    def denormalise(self, volume: Tensor) -> Tensor:
        """HU, clipped to the window, of values in `[-1, 1]` of any shape."""
        return (volume.clamp(-1.0, 1.0) + 1.0) * (self.width / 2.0) + self.low
