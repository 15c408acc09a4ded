"""Classifiers of X-rays with one logit: a head on an X-ray encoder, or a network of torchvision."""

import json
import re

from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor, nn

from dataset.imaging.unknown_pixels import split_unknown
from ddpm.weights.safe_load import read_weights
from ddpm.xray_encoder import ENCODERS
from ddpm.xray_encoder.base import XrayEncoder, resize

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BACKBONES = ("densenet121", "resnet18", "resnet34", "resnet50")


class XrayClassifier(ModelMixin, ConfigMixin):
    """An X-ray encoder and a linear head on its embedding, the mean over the views.

    `encoder` is `{"class": name of one of ddpm.xray_encoder, "config": its constructor arguments}`.
    """

    @register_to_config
    def __init__(self, encoder: dict, dropout: float = 0.1):
        super().__init__()
        kind = ENCODERS.get(str(encoder.get("class")))
        if kind is None or kind.volumetric:
            raise ValueError(f"encoder {encoder.get('class')}: not an X-ray encoder of ddpm.xray_encoder")
        self.body = kind(**encoder["config"])
        width = self.body.embedding_dim
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Dropout(dropout), nn.Linear(width, 1))

    @classmethod
    def around(cls, encoder: XrayEncoder, dropout: float = 0.1) -> "XrayClassifier":
        """A new head on an encoder with its weights."""
        config = {k: v for k, v in dict(encoder.config).items() if not k.startswith("_")}
        classifier = cls({"class": type(encoder).__name__, "config": json.loads(json.dumps(config))}, dropout)
        classifier.body.load_state_dict(encoder.state_dict())
        return classifier

    def forward(self, xray: Float[Tensor, "b v 1 h w"]) -> Float[Tensor, " b"]:
        """Logits of X-rays in [0, 1]."""
        return self.head(self.body(xray).embedding.mean(dim=1))[:, 0]


class TorchvisionXrayClassifier(ModelMixin, ConfigMixin):
    """A classification network of torchvision, one of `BACKBONES`, with one output, the mean over the views."""

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

        Raises a `ValueError` for a file that is missing or of another architecture.
        """
        classifier = cls(architecture, image_size)
        if weights is None:
            return classifier
        head = ("classifier.", "fc.")
        own = {k: v for k, v in classifier.network.state_dict().items() if k.startswith(head)}
        try:
            state = {_renamed(k): v for k, v in read_weights(weights).items() if not k.startswith(head)}
            classifier.network.load_state_dict(state | own)
        except (ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"classifier.weights={weights}: no weights of {architecture} ({reason})") from error
        return classifier

    def forward(self, xray: Float[Tensor, "b v 1 h w"]) -> Float[Tensor, " b"]:
        """Logits of X-rays in [0, 1]; unknown pixels count as 0."""
        image = resize(split_unknown(xray.flatten(0, 1))[0], self.config.image_size)
        mean, std = (image.new_tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        logits = self.network((image.expand(-1, 3, -1, -1) - mean) / std)
        return logits.view(xray.shape[0], xray.shape[1]).mean(dim=1)


def _renamed(name: str) -> str:
    """Layer names without the inner dots of torchvision's older DenseNet files, as in `denselayer1.norm.1.weight`."""
    return re.sub(r"(denselayer.*\.(?:norm|conv))\.([12]\.)", r"\1\2", name)
