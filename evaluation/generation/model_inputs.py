"""X-rays, poses and volume sizes of several cases, stacked as the pipeline takes them."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dataset.imaging.geometry import extent_mm


@dataclass(frozen=True)
class ModelInputs:
    """What `XrayToCTPipeline` is conditioned on, for n cases.

    Attributes:
        xrays: in [0, 1].
        poses: NaN where unknown.
        extents: mm `(D, H, W)` of the volumes to generate.
    """

    xrays: Float[Tensor, "n v 1 h w"]
    poses: Float[Tensor, "n v 9"]
    extents: Float[Tensor, "n 3"]

    @classmethod
    def of_cases(cls, cases: Iterable[dict], pipeline) -> "ModelInputs":
        """Stacks `xray`, `pose` and `spacing` of each case; sizes are those of `condition_extents`."""
        parts = [
            (case["xray"].float().flatten(0, -3)[:, None], case["pose"], case["spacing"].tolist()) for case in cases
        ]
        xrays, poses = (torch.stack([part[i] for part in parts]) for i in range(2))
        sizes = torch.tensor([extent_mm(pipeline.volume_size, spacing) for *_, spacing in parts])
        return cls(xrays, poses, condition_extents(poses, sizes, pipeline))


def condition_extents(poses: Float[Tensor, "n v 9"], own: Float[Tensor, "n 3"], pipeline) -> Float[Tensor, "n 3"]:
    """Size in mm `(D, H, W)` of each volume that the generator is conditioned on.

    It is `pipeline.extent` where a pose is unknown, because a radiograph does not show how large its patient is, and
    the volume's `own` size elsewhere and for a generator whose inputs are volumes.
    """
    if pipeline.protocol.get("input") == "volume":
        return own
    unknown = poses.isnan().flatten(1).any(dim=1, keepdim=True)
    return torch.where(unknown, own.new_tensor(pipeline.extent), own)
