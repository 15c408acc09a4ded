"""A classifier of CT volumes with one logit: a DenseNet in 3D, or in 2D over axial slices."""

from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor


class CTClassifier(ModelMixin, ConfigMixin):
    """MONAI's DenseNet (arXiv:1608.06993) in 3D, or in 2D with the mean of the logits of slices along D."""

    @register_to_config
    def __init__(
        self,
        dimensions: int = 3,
        init_features: int = 64,
        growth_rate: int = 32,
        block_config: tuple[int, ...] = (6, 12, 24, 16),
    ):
        super().__init__()
        from monai.networks.nets import DenseNet  # takes seconds to import

        if dimensions not in (2, 3):
            raise ValueError(f"dimensions={dimensions}: choose 2 or 3")
        self.slicewise = dimensions == 2
        self.network = DenseNet(dimensions, 1, 1, init_features, growth_rate, tuple(block_config))

    def forward(self, volume: Float[Tensor, "b 1 D H W"]) -> Float[Tensor, " b"]:
        """Logits of volumes in [-1, 1]."""
        if not self.slicewise:
            return self.network(volume)[:, 0]
        slices = self.network(volume.movedim(2, 1).flatten(0, 1))
        return slices.view(len(volume), -1).mean(dim=1)
