"""Base of the pretrained X-ray encoders: their files, their preprocessing and their forward pass."""

from pathlib import Path

import torch
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError
from jaxtyping import Float
from torch import Tensor, nn

from common.errors import UserError
from dataset.imaging.unknown_pixels import split_unknown
from ddpm.weights.hub import hub_file, why_missing
from ddpm.xray_encoder.base import XrayEncoder, XrayFeatures, resize

KEY = "model.xray_encoder.weights"


class PretrainedXrayEncoder(XrayEncoder):
    """Base of encoders with a published network.

    It resizes the whole X-ray to the square that the network was trained on; the libraries' own transforms would crop
    it. A subclass sets `channels` and `interpolation`, registers `image_size`, `mean` and `std`, and defines
    `encode_image`.
    """

    pretrained = True
    channels = 3
    interpolation = "bicubic"

    def preprocess(self, image: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n c s s"]:
        """Images in [0, 1], resized and normalised as in the network's training."""
        # bicubic interpolation overshoots at edges
        image = resize(image, self.config.image_size, self.interpolation).clamp(0.0, 1.0)
        mean, std = (image.new_tensor(v).view(1, -1, 1, 1) for v in (self.config.mean, self.config.std))
        return (image.expand(-1, self.channels, -1, -1) - mean) / std

    def encode_image(self, image: Float[Tensor, "n c s s"]) -> tuple[Float[Tensor, "n e"], Float[Tensor, "n f y x"]]:
        """Embedding and map of preprocessed images."""
        raise NotImplementedError

    def forward(self, xray: Float[Tensor, "b v 1 h w"]) -> XrayFeatures:
        """Features of each view; unknown pixels count as 0."""
        b, v = xray.shape[:2]
        with torch.autocast(xray.device.type, enabled=False):
            image = self.preprocess(split_unknown(xray.flatten(0, 1).float())[0])
        embedding, maps = self.encode_image(image)
        return XrayFeatures(embedding.unflatten(0, (b, v)), maps.unflatten(0, (b, v)))

    def train(self, mode: bool = True) -> "PretrainedXrayEncoder":
        """Batch norms stay in eval mode with their published statistics, also in fine-tuning."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self


def fetch(weights: str, *choices: tuple[str, ...]) -> list[Path]:
    """One file of each group of names in order of preference, from a local folder, the Hugging Face cache or the hub.

    `weights` is the folder or hub id. A `UserError` for a missing file says how to get it.
    """
    folder = Path(weights).expanduser()
    if folder.is_dir():
        found = [next((folder / name for name in names if (folder / name).is_file()), None) for names in choices]
        if None in found:
            names = " or ".join(choices[found.index(None)])
            raise UserError(f"{KEY}={weights}: the folder holds no {names}; copy it there")
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
