"""What an X-ray does not show (padding, collimation, shutter) is unknown, not air: its pixels are NaN."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

KNOWN_SHARE = 0.5  # of a resampled pixel; with less it is unknown
WHOLE = 1.0 - 1e-4  # share of a resampled pixel that is entirely known, up to rounding

UNKNOWN = float("nan")


def split_unknown(xray: Float[Tensor, "*n h w"]) -> tuple[Float[Tensor, "*n h w"], Bool[Tensor, "*n h w"]]:
    """The X-ray with 0 in place of unknown pixels, and where it is known."""
    known = ~xray.isnan()
    return torch.where(known, xray, 0.0), known


def present_views(xray: Float[Tensor, "b v 1 h w"]) -> Bool[Tensor, "b v"]:
    """Which views of each patient have a known pixel; a view without one is missing."""
    return ~xray.isnan().flatten(2).all(dim=2)


def resampled(
    xray: Float[Tensor, "n c h w"], resample: Callable[[Tensor], Tensor]
) -> Float[Tensor, "n c rows columns"]:
    """`resample` as the weighted mean of known pixels.

    `resample` is linear; its weights sum to 1, or to less beyond the border. Pixels of which
    less than `KNOWN_SHARE` is known are unknown. A known X-ray gives the result of `resample` itself.
    """
    filled, known = split_unknown(xray)
    values, share = resample(torch.cat([filled, known.to(filled.dtype)], dim=1)).chunk(2, dim=1)
    values = torch.where(share > WHOLE, values, values / share.clamp_min(KNOWN_SHARE))
    return torch.where(share >= KNOWN_SHARE, values, UNKNOWN)


def pooled(xray: Float[Tensor, "*n h w"], pixels: int) -> Float[Tensor, "*n p p"]:
    """Known pixels averaged down to `(pixels, pixels)`."""
    flat = xray.reshape(-1, 1, *xray.shape[-2:])
    small = resampled(flat, lambda image: F.adaptive_avg_pool2d(image, pixels))
    return small.reshape(*xray.shape[:-2], pixels, pixels)
