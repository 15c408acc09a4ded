"""What every X-ray encoder gives: an embedding of the whole image, and a map whose pixels keep their place."""

from typing import NamedTuple

from diffusers import ConfigMixin, ModelMixin
from jaxtyping import Float
from torch import Tensor, nn

from ddpm.conditioning.lift import RayLift


class XrayFeatures(NamedTuple):
    """Output of an `XrayEncoder`."""

    embedding: Float[Tensor, "b v e"]
    maps: Float[Tensor, "b v f y x"]  # row 0 superior, column 0 the patient's right, over the same field as the X-ray


class XrayEncoder(ModelMixin, ConfigMixin):
    """Base of the encoders. A subclass owns its own resize and normalisation and sets the two sizes below.

    `forward` takes X-rays `(b, v, 1, h, w)` in [0, 1], bright bone, and returns `XrayFeatures`.

    Attributes:
        embedding_dim: length e of the global embedding.
        feature_channels: channels f of the maps.
        pretrained: its weights come from elsewhere, so that training leaves them alone unless told otherwise.
        volumetric: the views are the axial slices of a source volume, inferior to superior, and not projections.
    """

    embedding_dim: int
    feature_channels: int
    pretrained: bool = False
    volumetric: bool = False

    def forward(self, xray: Float[Tensor, "b v 1 h w"]) -> XrayFeatures:
        """To be written by the subclass."""
        raise TypeError(f"{type(self).__name__} has no forward")

    def make_lift(self, channels: int, depth_bins: int) -> nn.Module:
        """The untrained module that brings the maps onto the latent grid: along rays, for these are projections."""
        return RayLift(self.feature_channels, channels, depth_bins)
