"""X-rays, poses and volume sizes of several cases, stacked for the pipeline."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dataset.imaging.geometry import extent_mm
from ddpm.consistency.lung_guide import LungUpdate
from evaluation.generation.xray_inputs import GeneratorInput


@dataclass(frozen=True)
class ModelInputs:
    """Conditions of `XrayToCTPipeline` for n cases.

    Attributes:
        xrays: in [0, 1].
        poses: NaN where unknown.
        extents: mm `(D, H, W)` of the volumes to generate.
        guides: of each case the update by its lungs, or None; () for none.
    """

    xrays: Float[Tensor, "n v 1 h w"]
    poses: Float[Tensor, "n v 9"]
    extents: Float[Tensor, "n 3"]
    guides: Sequence[LungUpdate | None] = ()

    @classmethod
    def of_cases(cls, cases: Iterable[dict], pipeline) -> "ModelInputs":
        """Stacks `xray`, `pose` and `spacing` of each case.

        The extent is `pipeline.extent` if a pose is unknown, because a radiograph does not show the size of its
        patient, else and for generators from volumes that of the case.
        """
        parts = [(case["xray"].float().flatten(0, -3)[:, None], case["pose"], case["spacing"]) for case in cases]
        xrays, poses, spacings = (torch.stack(part) for part in zip(*parts, strict=True))
        extents = torch.tensor([extent_mm(pipeline.volume_size, spacing) for spacing in spacings.tolist()])
        if pipeline.protocol.get("input") != "volume":
            unknown = poses.isnan().flatten(1).any(dim=1, keepdim=True)
            extents = torch.where(unknown, extents.new_tensor(pipeline.extent), extents)
        return cls(xrays, poses, extents)

    @classmethod
    def of_inputs(cls, inputs: Sequence[GeneratorInput]) -> "ModelInputs":
        """Stacks X-rays that were read from files."""
        parts = ((given.xray[:, None], given.pose, torch.tensor(given.extent)) for given in inputs)
        return cls(*(torch.stack(part) for part in zip(*parts, strict=True)), [given.guide for given in inputs])
