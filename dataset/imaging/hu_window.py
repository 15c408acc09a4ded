"""The linear window between Hounsfield units and the model's [-1, 1]: the only place where that map is written."""

from dataclasses import dataclass

import torch
from torch import Tensor

from common.errors import UserError

AIR_HU = -1024.0
REPROJECTION_LIMIT_HU = -900.0  # a window that starts above this has cut the lungs: line integrals are meaningless

WINDOWS: dict[str, tuple[float, float]] = {
    "ctpa": (-200.0, 500.0),
    "lidc": (-1200.0, 600.0),
    "wide": (-1000.0, 1000.0),
}


@dataclass(frozen=True)
class Window:
    """A HU interval `[low, high]` that is mapped linearly onto `[-1, 1]`; what lies outside is clipped.

    Raises:
        UserError: if `high <= low`.
    """

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
        bounds = list(value)
        if len(bounds) != 2:
            raise UserError(f"dataset.window={bounds}: give two HU such as [-1000, 1000]")
        return cls(float(bounds[0]), float(bounds[1]))

    @property
    def width(self) -> float:
        """Data range in HU: the one that PSNR and SSIM state."""
        return self.high - self.low

    @property
    def keeps_line_integrals(self) -> bool:
        """Whether a volume in this window may be re-projected and compared with an X-ray."""
        return self.low <= REPROJECTION_LIMIT_HU

    def normalise(self, hu: Tensor, out: Tensor | None = None) -> Tensor:
        """HU of any shape, whole numbers too, to `[-1, 1]` in floating point, clipped; into `out` if given."""
        # In place after the first step: fresh memory for each would take longer than the arithmetic.
        kind = hu.dtype if hu.is_floating_point() else torch.float32
        found = torch.empty(hu.shape, dtype=kind, device=hu.device) if out is None else out
        return found.copy_(hu).sub_(self.low).mul_(2.0 / self.width).sub_(1.0).clamp_(-1.0, 1.0)

    def denormalise(self, volume: Tensor) -> Tensor:
        """`[-1, 1]` of any shape to HU, clipped to the window."""
        return (volume.clamp(-1.0, 1.0) + 1.0) * (self.width / 2.0) + self.low
