"""Classifiers of X-rays with one logit: a head on an X-ray encoder, or a network of torchvision."""

import json

import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor, nn

import ddpm.xray_encoder as encoders
from ddpm.weights.safe_load import read_weights
from ddpm.xray_encoder import XrayEncoder

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BACKBONES = ("densenet121", "resnet18", "resnet34", "resnet50")


class XrayClassifier(ModelMixin, ConfigMixin):
    """An X-ray encoder and a linear head on its embedding, the mean over the views.

    Args:
        encoder: `{"class": name of one of ddpm.xray_encoder, "config": its constructor arguments}`.
        dropout: of the embedding.

    Raises:
        ValueError: for a class outside `ddpm.xray_encoder`.
    """

    @register_to_config
    def __init__(self, encoder: dict, dropout: float = 0.1):
        super().__init__()
        kind = getattr(encoders, str(encoder.get("class")), None) if encoder.get("class") in encoders.__all__ else None
        if not (isinstance(kind, type) and issubclass(kind, XrayEncoder)) or kind.volumetric or kind is XrayEncoder:
            raise ValueError(f"encoder {encoder.get('class')}: not an X-ray encoder of ddpm.xray_encoder")
        self.body = kind(**encoder["config"])
        width = self.body.embedding_dim
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Dropout(dropout), nn.Linear(width, 1))

    @classmethod
    def around(cls, encoder: XrayEncoder, dropout: float = 0.1) -> "XrayClassifier":
        """A new head on an encoder with its weights."""
        config = {k: v for k, v in dict(encoder.config).items() if not k.startswith("_")}
        found = cls({"class": type(encoder).__name__, "config": json.loads(json.dumps(config))}, dropout)
        found.body.load_state_dict(encoder.state_dict())
        return found

    def forward(self, xray: Float[Tensor, "b v 1 h w"]) -> Float[Tensor, " b"]:
        """Logits of X-rays in [0, 1]."""
        return self.head(self.body(xray).embedding.mean(dim=1))[:, 0]


class TorchvisionXrayClassifier(ModelMixin, ConfigMixin):
    """A classification network of torchvision with one output, the mean over the views.

    Args:
        architecture: one of `BACKBONES`.
        image_size: side in pixels to which X-rays are resized.

    Raises:
        ValueError: for another architecture.
    """

    @register_to_config
    def __init__(self, architecture: str = "densenet121", image_size: int = 224):
        super().__init__()
        import torchvision

        if architecture not in BACKBONES:
            raise ValueError(f"classifier.architecture={architecture}: choose {', '.join(BACKBONES)}")
        self.network = getattr(torchvision.models, architecture)(weights=None, num_classes=1)

    @classmethod
    def from_weights(
        cls, architecture: str = "densenet121", image_size: int = 224, weights: str | None = None
    ) -> "TorchvisionXrayClassifier":
        """A classifier with the weights of a torchvision file, except the last layer; None for random weights.

        Raises:
            ValueError: for a file that is missing or of another architecture.
        """
        found = cls(architecture, image_size)
        if weights is None:
            return found
        try:
            state = read_weights(weights)
        except ValueError as error:
            raise ValueError(f"classifier.weights={weights}: {error}") from error
        head = ("classifier.", "fc.")
        own = found.network.state_dict()
        state = {_renamed(k): v for k, v in state.items() if not k.startswith(head)}
        state |= {k: v for k, v in own.items() if k.startswith(head)}
        try:
            found.network.load_state_dict(state)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"classifier.weights={weights}: no weights of {architecture} ({reason})") from error
        return found

    def forward(self, xray: Float[Tensor, "b v 1 h w"]) -> Float[Tensor, " b"]:
        """Logits of X-rays in [0, 1]."""
        image = xray.flatten(0, 1)
        size = (self.config.image_size, self.config.image_size)
        if image.shape[-2:] != size:
            image = F.interpolate(image, size, mode="bilinear", antialias=True, align_corners=False)
        mean, std = (image.new_tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        logits = self.network((image.expand(-1, 3, -1, -1) - mean) / std)
        return logits.view(xray.shape[0], xray.shape[1]).mean(dim=1)


def _renamed(name: str) -> str:
    """Layer names without the inner dots of torchvision's older DenseNet files."""
    for old, new in (("norm.1", "norm1"), ("norm.2", "norm2"), ("conv.1", "conv1"), ("conv.2", "conv2")):
        name = name.replace(f".{old}.", f".{new}.") if "denselayer" in name else name
    return name
