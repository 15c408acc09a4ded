"""`Metric`, a registry entry, and `CaseView`, the case that a metric is computed on.

To add a metric, add a file with a tuple `METRICS` to this folder.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dataset.imaging.hu_window import Window
from evaluation.metrics.regions import (
    BLOOD_LABELS,
    DENSE_HU,
    REGIONS,
    body_mask,
    flattened_share,
    lung_mask,
    split_dense,
)


class NotMeasured(Exception):
    """Raised by a metric that is not defined for a case; its text gives the reason and replaces the number."""


@dataclass(frozen=True)
class Metric:
    """One number per volume.

    Attributes:
        name: key in files and settings.
        label: column title.
        unit: "" if it has none.
        best: `high`, `low`, or `one` if 1 is perfect.
        digits: decimals that tables show.
        function: from a `CaseView` to one value per prediction.
        definition: definition of the number, for reports.
        default: measured by default.
        floor: the truth itself does not score perfectly, so its own value is reported too.
    """

    name: str
    label: str
    unit: str
    best: str
    digits: int
    function: Callable[["CaseView"], Float[Tensor, " m"]]
    definition: str
    default: bool = False
    floor: bool = False


class CaseView:
    """A case and its predictions, with cached quantities that several metrics share.

    Args:
        case: item of `CaseDataset.case`: `ct` in HU before windowing, `xray`, `pose`, `spacing`, of phantoms
            `labels`.
        predictions: HU.
        window: HU range to which predictions and truth are clipped; its width is the data range.
        shared: has `get(compute, volume, *geometry)` that remembers results from case to case; computes if None.
        names: methods behind the predictions, in order.
        tools: further inputs by name: `lpips`, a network; `drr`, the options of rendered X-rays.

    Attributes:
        hu: truth before windowing, the source of all masks.
        truth, predictions: clipped to the window.
        spacing: mm, `(D, H, W)`.
    """

    def __init__(
        self, case: dict, predictions: Float[Tensor, "m d h w"], window: Window, shared=None, names=(), tools=None
    ):
        self.case, self.window, self._shared = case, window, shared
        self.names, self.tools = tuple(names), tools or {}
        self.predictions = predictions.float().clamp(window.low, window.high)
        self.hu = case["ct"].to(self.predictions.device).float()
        self.truth = self.hu.clamp(window.low, window.high)
        self.spacing = tuple(float(s) for s in case["spacing"])
        self._regions: dict[str, Tensor] = {}

    def remembered(self, compute: Callable[..., Tensor], volume: Float[Tensor, "d h w"], *geometry) -> Tensor:
        """`compute(volume, *geometry)`, cached across cases with the same volume."""
        if self._shared is None:
            return compute(volume, *geometry)
        return self._shared.get(compute, volume, *geometry)

    def region(self, name: str) -> Bool[Tensor, "d h w"]:
        """Mask of a region of `evaluation.metrics.regions`, from HU before windowing.

        Raises:
            NotMeasured: the truth has no such region, or the window flattens it.
        """
        if name not in self._regions:
            self._regions[name] = REGIONS[name].mask(self)
        mask = self._regions[name]
        if not mask.any():
            raise NotMeasured(f"the truth shows no {REGIONS[name].title}")
        if flattened_share(self.hu, mask, self.window) > 0.5:
            low, high = self.window.low, self.window.high
            raise NotMeasured(f"outside window: [{low:g}, {high:g}] HU flattens the {REGIONS[name].title}")
        return mask

    def labelled(self, *names: str) -> Bool[Tensor, "d h w"]:
        """Mask of a phantom's own labels.

        Raises:
            NotMeasured: the case has no labels, or none of these.
        """
        from dataset.phantom.render import LABELS

        if "labels" not in self.case:
            raise NotMeasured("the cases have no labels of their own")
        numbers = torch.tensor([LABELS[name] for name in names], device=self.hu.device)
        mask = torch.isin(self.case["labels"].to(self.hu.device).to(numbers.dtype), numbers)
        if not mask.any():
            raise NotMeasured(f"the truth has no {' or '.join(names)}")
        return mask

    @cached_property
    def body(self) -> Bool[Tensor, "d h w"]:
        """The truth's body; may be empty."""
        return body_mask(self.hu)

    @cached_property
    def dense(self) -> tuple[Bool[Tensor, "d h w"], Bool[Tensor, "d h w"]]:
        """The truth's bone and contrast vessels, from a phantom's labels if it has some; may be empty."""
        if "labels" not in self.case:
            return split_dense(self.hu, self.body, self.segmented_lungs, self.spacing)
        dense = (self.hu >= DENSE_HU) & self.body
        return dense & self.labelled("bone"), dense & self.labelled(*BLOOD_LABELS)

    @cached_property
    def segmented_lungs(self) -> Bool[Tensor, "d h w"]:
        """Lungs of the truth by the built-in segmenter; may be empty."""
        return lung_mask(self.hu, self.spacing)

    @cached_property
    def predicted_lungs(self) -> Bool[Tensor, "m d h w"]:
        """Lungs of each prediction by the same segmenter."""
        masks = [self.remembered(lung_mask, volume, self.spacing) for volume in self.predictions]
        return torch.stack(masks)
