"""Base of the X-ray encoders: a global embedding and a feature map over the field of the X-ray."""

from typing import NamedTuple

import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from jaxtyping import Bool, Float
from torch import Tensor

from dataset.imaging.unknown_pixels import present_views


class XrayFeatures(NamedTuple):
    """Output of an `XrayEncoder`."""

    embedding: Float[Tensor, "b v e"]
    maps: Float[Tensor, "b v f y x"]  # over the field of the X-ray: row 0 superior, column 0 the patient's right


class XrayEncoder(ModelMixin, ConfigMixin):
    """Base of the encoders. A subclass resizes and normalises its input and sets the two sizes below."""

    embedding_dim: int  # length e of the global embedding
    feature_channels: int  # channels f of the maps
    pretrained: bool = False  # whether it has published weights, which training freezes by default
    volumetric: bool = False  # whether the views are axial slices of a source volume, inferior to superior

    def forward(self, xray: Float[Tensor, "b v 1 h w"]) -> XrayFeatures:
        """Features of each view of X-rays in [0, 1], bright bone, NaN where they are unknown."""
        raise NotImplementedError

    def present_views(self, xray: Float[Tensor, "b v 1 h w"]) -> Bool[Tensor, "b v"] | None:
        """Which views are not missing; None for the slices of a volume, which are all there."""
        return None if self.volumetric else present_views(xray)


def resize(image: Float[Tensor, "n c h w"], side: int, mode: str = "bilinear") -> Float[Tensor, "n c s s"]:
    """Images resized to squares."""
    if image.shape[-2:] == (side, side):
        return image
    return F.interpolate(image, (side, side), mode=mode, antialias=True, align_corners=False)
