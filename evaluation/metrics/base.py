"""`Metric`, a registry entry, and `CaseView`, the case that a metric is computed on.

To add a metric, add a file with a tuple `METRICS` to this folder.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dataset.imaging.hu_window import Window
from evaluation.metrics.regions import (
    BLOOD_LABELS,
    DENSE_HU,
    REGIONS,
    body_mask,
    clipped_share,
    lung_mask,
    split_dense,
)


class NotMeasured(Exception):
    """A metric is not defined for a case; the text gives the reason and replaces the number."""


@dataclass(frozen=True)
class Metric:
    """One number per volume.

    Attributes:
        name: key in files and settings.
        label: column title.
        function: from a `CaseView` to one value per prediction.
        definition: for reports.
        unit: "" if it has none.
        best: `high`, `low`, `one` if 1 is perfect, or `none`.
        digits: decimals in tables.
        default: measured by default.
        floor: the truth itself does not score perfectly, so its own value is reported too.
        pooled: how the values of cases become one: `mean`, `root mean square`, or `ratio` (of the spread, see
            `evaluation.scoring.pooled`).
    """

    name: str
    label: str
    function: Callable[["CaseView"], Float[Tensor, " m"]]
    definition: str
    unit: str = ""
    best: str = "high"
    digits: int = 3
    default: bool = False
    floor: bool = False
    pooled: str = "mean"


class CaseView:
    """A case and its predictions, with cached quantities that several metrics share.

    Args:
        case: item of `CaseDataset.case`: `ct` in HU before windowing, `scanned` if not all is, `xray`, `pose`,
            `spacing`, for phantoms `labels`.
        predictions: HU.
        window: HU range to which predictions and truth are clipped; its width is the data range.
        shared: cache across cases with `get(compute, volume, *geometry)`; None computes every time.
        names: methods of the predictions, in order.
        tools: further inputs by name: `lpips`, a network; `forward_model`, that of the X-rays.

    Attributes:
        hu: truth before windowing, the source of all masks.
        truth, predictions: clipped to the window. Where the scan ended, predictions hold the truth.
        scanned: voxels that count; None if all do.
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
        scanned = case.get("scanned")
        self.scanned = None if scanned is None or scanned.all() else scanned.to(self.hu.device)
        if self.scanned is not None:
            self.predictions = torch.where(self.scanned, self.predictions, self.truth)
        self.spacing = tuple(float(s) for s in case["spacing"])
        self._regions: dict[str, Tensor] = {}

    def remembered(self, compute: Callable[..., Tensor], volume: Float[Tensor, "d h w"], *geometry) -> Tensor:
        """`compute(volume, *geometry)`, cached across cases with the same volume."""
        compute = compute if self._shared is None else partial(self._shared.get, compute)
        return compute(volume, *geometry)

    def region(self, name: str) -> Bool[Tensor, "d h w"]:
        """Mask of a region of `REGIONS`, from HU before windowing; NotMeasured if it is empty or clipped."""
        if name not in self._regions:
            self._regions[name] = self.counted(REGIONS[name].mask(self))
        self.require(REGIONS[name].title, self._regions[name])
        return self._regions[name]

    def counted(self, mask: Bool[Tensor, "*m d h w"]) -> Bool[Tensor, "*m d h w"]:
        """The mask without voxels that were not scanned."""
        return mask if self.scanned is None else mask & self.scanned

    def require(self, title: str, *masks: Bool[Tensor, "d h w"]) -> None:
        """Raises NotMeasured if a mask is empty or the window clips more than half of it."""
        if not all(mask.any() for mask in masks):
            raise NotMeasured(f"the truth shows no {title}")
        if max(clipped_share(self.hu, mask, self.window) for mask in masks) > 0.5:
            raise NotMeasured(f"outside window: [{self.window.low:g}, {self.window.high:g}] HU clips the {title}")

    def labelled(self, *names: str) -> Bool[Tensor, "d h w"]:
        """Mask of a phantom's labels that were scanned; NotMeasured if the case has no labels or none of these."""
        from dataset.phantom.render import LABELS

        if "labels" not in self.case:
            raise NotMeasured("the cases have no labels")
        numbers = torch.tensor([LABELS[name] for name in names], device=self.hu.device)
        mask = self.counted(torch.isin(self.case["labels"].to(self.hu.device).to(numbers.dtype), numbers))
        if not mask.any():
            raise NotMeasured(f"the truth has no {' or '.join(names)}")
        return mask

    @cached_property
    def body(self) -> Bool[Tensor, "d h w"]:
        """Body of the truth; may be empty."""
        return body_mask(self.hu)

    @cached_property
    def dense(self) -> tuple[Bool[Tensor, "d h w"], Bool[Tensor, "d h w"]]:
        """Bone and contrast vessels of the truth, from the labels of a phantom if available; may be empty."""
        if "labels" not in self.case:
            return split_dense(self.hu, self.body, self.segmented_lungs, self.spacing)
        dense = (self.hu >= DENSE_HU) & self.body
        return dense & self.labelled("bone"), dense & self.labelled(*BLOOD_LABELS)

    @cached_property
    def segmented_lungs(self) -> Bool[Tensor, "d h w"]:
        """Lungs of the truth by `lung_mask`; may be empty."""
        return lung_mask(self.hu, self.spacing)

    @cached_property
    def predicted_lungs(self) -> Bool[Tensor, "m d h w"]:
        """Lungs of each prediction by `lung_mask`."""
        return torch.stack([self.remembered(lung_mask, volume, self.spacing) for volume in self.predictions])
