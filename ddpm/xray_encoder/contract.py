"""What every X-ray encoder gives: an embedding of the whole image, and a map whose pixels keep their place."""

from typing import NamedTuple

from diffusers import ConfigMixin, ModelMixin
from jaxtyping import Float
from torch import Tensor


class XrayFeatures(NamedTuple):
    """Output of an `XrayEncoder`."""

    embedding: Float[Tensor, "b v e"]
    maps: Float[Tensor, "b v f y x"]  # row 0 superior, column 0 the patient's right, over the same field as the X-ray


class XrayEncoder(ModelMixin, ConfigMixin):
    """Base of the encoders. A subclass owns its own resize and normalisation and sets the two sizes below.

    `forward` takes X-rays `(b, v, 1, h, w)` in [0, 1], bright bone, and returns `XrayFeatures`.
    """

    embedding_dim: int
    feature_channels: int

    def forward(self, xray: Float[Tensor, "b v 1 h w"]) -> XrayFeatures:
        """To be written by the subclass."""
        raise TypeError(f"{type(self).__name__} has no forward")
