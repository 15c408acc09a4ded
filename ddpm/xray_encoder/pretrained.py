"""Base of the pretrained X-ray encoders: their files, their preprocessing and their forward pass."""

from pathlib import Path

import torch
import torch.nn.functional as F
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError
from jaxtyping import Float
from torch import Tensor, nn

from common.errors import UserError
from ddpm.weights.hub import hub_file, why_missing
from ddpm.xray_encoder.base import XrayEncoder, XrayFeatures

KEY = "model.xray_encoder.weights"


class PretrainedXrayEncoder(XrayEncoder):
    """Base of encoders around a published network.

    The whole X-ray is resized to the square that the network was trained on. The libraries' own transforms crop an
    oblong image to a square, which would cut the field of the map. A subclass sets `channels` and `interpolation`,
    registers `image_size`, `mean` and `std`, and writes `encode_image`.
    """

    pretrained = True
    channels = 3
    interpolation = "bicubic"

    def preprocess(self, image: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n c s s"]:
        """Images in [0, 1], resized and normalised as in the network's training."""
        size = (self.config.image_size, self.config.image_size)
        if image.shape[-2:] != size:
            image = F.interpolate(image, size, mode=self.interpolation, antialias=True, align_corners=False)
            image = image.clamp(0.0, 1.0)  # bicubic interpolation overshoots at edges
        mean, std = (image.new_tensor(v).view(1, -1, 1, 1) for v in (self.config.mean, self.config.std))
        return (image.expand(-1, self.channels, -1, -1) - mean) / std

    def encode_image(self, image: Float[Tensor, "n c s s"]) -> tuple[Float[Tensor, "n e"], Float[Tensor, "n f y x"]]:
        """Embedding and map of preprocessed images; a subclass writes it."""
        raise TypeError(f"{type(self).__name__} has no encode_image")

    def forward(self, xray: Float[Tensor, "b v 1 h w"]) -> XrayFeatures:
        """Features of each view."""
        b, v = xray.shape[:2]
        with torch.autocast(xray.device.type, enabled=False):
            image = self.preprocess(xray.flatten(0, 1).float())
        embedding, maps = self.encode_image(image)
        return XrayFeatures(embedding.unflatten(0, (b, v)), maps.unflatten(0, (b, v)))

    def train(self, mode: bool = True) -> "PretrainedXrayEncoder":
        """Batch norms stay in eval mode and keep their published statistics, also in fine-tuning."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self


def fetch(weights: str, *choices: tuple[str, ...]) -> list[Path]:
    """One file of each group of names, out of a local folder, the Hugging Face cache or the hub.

    Args:
        weights: folder, or hub id.
        choices: groups of names, each in order of preference.

    Raises:
        UserError: for a missing file; it says how to get it.
    """
    folder = Path(weights).expanduser()
    if folder.is_dir():
        found = [next((folder / name for name in names if (folder / name).is_file()), None) for names in choices]
        for names, file in zip(choices, found, strict=True):
            if file is None:
                raise UserError(f"{KEY}={weights}: the folder holds no {' or '.join(names)}; copy it there")
        return found
    if folder.exists():
        raise UserError(f"{KEY}={weights}: a file; give the folder that holds {_listed(choices)}")
    try:
        return [hub_file(weights, *names) for names in choices]
    except (EntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        missing = why_missing(KEY, weights, "folder", " ".join(names[0] for names in choices), error)
        advice = f"or put {_listed(choices)} into a folder and give its path. model/xray_encoder=cnn needs no file"
        raise UserError(f"{missing}; {advice}") from error


def _listed(choices: tuple[tuple[str, ...], ...]) -> str:
    return ", ".join(" or ".join(names) for names in choices)
