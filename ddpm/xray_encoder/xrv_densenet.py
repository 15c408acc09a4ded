"""torchxrayvision's DenseNet-121, a classifier of findings in chest X-rays, as X-ray encoder."""

import re
import warnings
from collections import Counter
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from common.errors import UserError
from ddpm.weights.xrv_pickle import network_weights
from ddpm.xray_encoder.base import resize
from ddpm.xray_encoder.pretrained import KEY, PretrainedXrayEncoder

RANGE = 1024.0  # images of the library lie in [-1024, 1024]
CACHE = Path("~/.torchxrayvision/models_data")  # folder of the library's downloads


class TorchXRayVisionEncoder(PretrainedXrayEncoder):
    """The embedding is the 1024 pooled features, the map the same features at 1/32 (Cohen et al. 2022).

    `densenet` are arguments of the library's class, `source` a name or file for the record.
    """

    channels = 1
    interpolation = "bilinear"

    @register_to_config
    def __init__(self, densenet: dict | None = None, image_size: int = 224, source: str = ""):
        super().__init__()
        if image_size % 32:
            raise ValueError(f"model.xray_encoder.image_size={image_size}: must be a multiple of 32")
        self.network = _library().models.DenseNet(**(densenet or {})).features
        self.embedding_dim = self.feature_channels = self.network.norm5.num_features

    @classmethod
    def from_weights(cls, weights: str, image_size: int = 224) -> "TorchXRayVisionEncoder":
        """The network of a published name, such as `densenet121-res224-all`, a pickled network or a state dict."""
        file = _find(weights)
        try:
            state = load_file(file) if file.suffix == ".safetensors" else network_weights(file)
            encoder = cls(_architecture(state), image_size, str(weights))
            own = {k.removeprefix("features."): v for k, v in state.items() if k.startswith("features.")}
            encoder.network.load_state_dict(own)
        except (KeyError, ValueError, RuntimeError, AttributeError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(
                f"{KEY}={weights}: {file} is no DenseNet of torchxrayvision ({reason}). If you trust the file, "
                "save its state_dict() with safetensors and give that file"
            ) from error
        return encoder.eval()

    def preprocess(self, image: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 s s"]:
        """Images in [0, 1], scaled like the library's `normalize`."""
        return (2.0 * resize(image, self.config.image_size, self.interpolation) - 1.0) * RANGE

    def encode_image(self, image: Float[Tensor, "n 1 s s"]) -> tuple[Float[Tensor, "n e"], Float[Tensor, "n f y x"]]:
        """Embedding and map of one forward pass."""
        maps = F.relu(self.network(image))
        return maps.mean(dim=(2, 3)), maps


def _library():
    with warnings.catch_warnings():  # its import silences all warnings of the process
        import torchxrayvision

        return torchxrayvision


def _find(weights: str) -> Path:
    path = Path(weights).expanduser()
    if path.is_file():
        return path
    models = _library().models
    known = sorted(name for name in models.model_urls if name.startswith("densenet"))
    if weights not in known:
        raise UserError(f"{KEY}={weights}: no such file, and not one of {', '.join(known)}")
    url = models.model_urls[weights]["weights_url"]
    cached = CACHE.expanduser() / url.rpartition("/")[2]
    try:
        if not cached.is_file():
            cached.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(cached), progress=False)  # atomic
    except OSError as error:
        raise UserError(
            f"{KEY}={weights}: not in {cached.parent}, and cannot be downloaded from {url} ({type(error).__name__}). "
            f"Two ways: download {url} on a machine with a network and put it there; or give its path as {KEY}. "
            "model/xray_encoder=cnn needs no file"
        ) from error
    return cached


def _architecture(state: dict[str, Tensor]) -> dict:
    """Constructor arguments of the library's class, from the shapes of its weights."""
    layers = {
        match.groups() for name in state if (match := re.match(r"features\.denseblock(\d+)\.denselayer(\d+)", name))
    }
    blocks = Counter(int(block) for block, _ in layers)
    first = "features.denseblock1.denselayer1"
    growth = state[f"{first}.conv2.weight"].shape[0]
    return {
        "num_init_features": state["features.conv0.weight"].shape[0],
        "growth_rate": growth,
        "bn_size": state[f"{first}.conv1.weight"].shape[0] // growth,
        "block_config": [blocks[number] for number in sorted(blocks)],
    }
