"""Base of the X-ray encoders: a global embedding and a feature map over the field of the X-ray."""

from typing import NamedTuple

from diffusers import ConfigMixin, ModelMixin
from jaxtyping import Float
from torch import Tensor


class XrayFeatures(NamedTuple):
    """Output of an `XrayEncoder`."""

    embedding: Float[Tensor, "b v e"]
    maps: Float[Tensor, "b v f y x"]  # over the field of the X-ray: row 0 superior, column 0 the patient's right


class XrayEncoder(ModelMixin, ConfigMixin):
    """Base of the encoders. A subclass resizes and normalises its input and sets the two sizes below.

    `forward` takes X-rays `(b, v, 1, h, w)` in [0, 1], bright bone, and returns `XrayFeatures`.

    Attributes:
        embedding_dim: length e of the global embedding.
        feature_channels: channels f of the maps.
        pretrained: whether it has published weights, which training freezes by default.
        volumetric: whether the views are axial slices of a source volume, inferior to superior.
    """

    embedding_dim: int
    feature_channels: int
    pretrained: bool = False
    volumetric: bool = False

    def forward(self, xray: Float[Tensor, "b v 1 h w"]) -> XrayFeatures:
        """Features of each view; a subclass writes it."""
        raise TypeError(f"{type(self).__name__} has no forward")
