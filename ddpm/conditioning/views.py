"""The views of a patient: a missing one is an X-ray of unknown pixels (NaN), never a black picture.

Training drops a view of some samples (`model.conditioning.view_drop`), so that one network takes one X-ray or two.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from common.errors import UserError
from common.seeding import generator
from dataset.imaging.geometry import unknown_pose
from dataset.imaging.unknown_pixels import UNKNOWN, present_views

VIEW_NAMES = ("PA", "lateral")  # of the first and the second view, where the pose is unknown
STREAM = 1 << 41  # separates the random numbers of dropped views from those of noise, which share (seed, step, row)


def mean_over_views(parts: Float[Tensor, "b v ..."], present: Bool[Tensor, "b v"] | None) -> Float[Tensor, "b ..."]:
    """The mean over the present views; None: all are present."""
    views = parts.shape[1]
    if present is None or views == 1:
        return parts.mean(dim=1)
    shown = present.view(*present.shape, *[1] * (parts.ndim - 2))
    share = shown.sum(dim=1).clamp_min(1).to(parts.dtype) / views
    return torch.where(shown, parts, 0.0).mean(dim=1) / share


def without_views(xray: Float[Tensor, "b v 1 h w"], shown: Bool[Tensor, "b v"]) -> Float[Tensor, "b v 1 h w"]:
    """X-rays of the `shown` views, NaN for the others; a patient of whom none would remain keeps all."""
    present = present_views(xray)
    kept = shown & present
    kept = torch.where(kept.any(dim=1, keepdim=True), kept, present)
    return torch.where(kept[:, :, None, None, None], xray, UNKNOWN)


def draw_views(share: float, views: int, seed: int, steps: Sequence[int], first: int) -> Bool[Tensor, "b v"]:
    """The views that samples of a batch show: with probability `share` not all of them, at least one.

    The number of views is uniform, and so are the views of that number. A sample's depend on the seed, its step and
    its position in the global batch, `first` for the first sample.
    """
    shown = torch.ones(len(steps), views, dtype=torch.bool)
    for row, step in enumerate(steps):
        rng = generator((seed, int(step), first + row, STREAM))
        if views > 1 and torch.rand((), generator=rng) < share:
            count = int(torch.randint(1, views, (), generator=rng))
            shown[row, torch.randperm(views, generator=rng)[count:]] = False
    return shown


def serves_fewer_views(protocol: dict) -> bool:
    """Whether a generator was trained with dropped views, so that views may be missing."""
    return bool(protocol.get("view_drop")) and protocol.get("input") != "volume"


def complete_views(
    xray: Float[Tensor, "b n 1 h w"], pose: Float[Tensor, "b n 9"] | None, protocol: dict
) -> tuple[Float[Tensor, "b v 1 h w"], Float[Tensor, "b v 9"]]:
    """X-rays and poses of all v views of a generator; the last views, if missing, are NaN. No `pose`: all are unknown.

    Raises UserError for more views than the generator has, and for fewer if it was trained on all.
    """
    count, views = xray.shape[:2]
    needed = protocol.get("views", views)
    names = VIEW_NAMES[:views] if views <= len(VIEW_NAMES) else ()
    pose = unknown_pose(views, names).expand(count, -1, -1) if pose is None else pose
    if views > needed or (views < needed and not serves_fewer_views(protocol)):
        raise UserError(f"xray: {views} view{'s' * (views > 1)} of a patient, the checkpoint takes {needed}")
    if views < needed:
        xray = torch.cat([xray, xray.new_full((count, needed - views, *xray.shape[2:]), UNKNOWN)], dim=1)
        pose = torch.cat([pose, pose.new_full((count, needed - views, pose.shape[2]), UNKNOWN)], dim=1)
    elif needed > 1 and not serves_fewer_views(protocol) and not present_views(xray).all():
        raise UserError(f"xray: a view without a known pixel; the checkpoint was trained on all {needed} views")
    return xray, pose
