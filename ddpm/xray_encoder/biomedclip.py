"""BiomedCLIP's vision transformer, or another image tower of open_clip, without its text tower."""

import json

import torch
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor

from common.errors import UserError
from ddpm.weights.safe_load import read_weights
from ddpm.xray_encoder.pretrained import KEY, PretrainedXrayEncoder, fetch

FILES = (("open_clip_config.json",), ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"))
TOWER = "visual."  # prefix of the image tower's weights in a file of open_clip
OPENAI_MEAN, OPENAI_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class BiomedCLIPXrayEncoder(PretrainedXrayEncoder):
    """The embedding is the projected class token, the map the normed patch tokens (Zhang et al., arXiv:2303.00915).

    `embed_dim` is the length of the projection, `vision` open_clip's `vision_cfg` of a transformer, its own or timm's;
    `image_size`, `mean` and `std` are of its training images; `source` is a hub id or folder, for the record.
    """

    @register_to_config
    def __init__(
        self,
        embed_dim: int,
        vision: dict,
        quick_gelu: bool = False,
        image_size: int = 224,
        mean: tuple[float, ...] = OPENAI_MEAN,
        std: tuple[float, ...] = OPENAI_STD,
        source: str = "",
    ):
        super().__init__()
        from open_clip.model import CLIPVisionCfg, _build_vision_tower

        vision = CLIPVisionCfg(**{**vision, "timm_model_pretrained": False})
        self.network = _build_vision_tower(embed_dim, vision, quick_gelu)
        self.embedding_dim = embed_dim
        with torch.no_grad():
            _, maps = self.encode_image(torch.zeros(1, 3, image_size, image_size))
        self.feature_channels = maps.shape[1]

    @classmethod
    def from_weights(cls, weights: str) -> "BiomedCLIPXrayEncoder":
        """The image tower of a hub id or of a folder with open_clip's two files."""
        config_file, weights_file = fetch(weights, *FILES)
        try:
            settings = json.loads(config_file.read_text())
            model, image = settings["model_cfg"], settings.get("preprocess_cfg", {})
            size = image.get("size", model["vision_cfg"].get("image_size", 224))
            height, width = (size, size) if isinstance(size, int) else size[-2:]
            if height != width:
                raise ValueError(f"images of {size}, not square")
            encoder = cls(
                model["embed_dim"],
                model["vision_cfg"],
                model.get("quick_gelu", False),
                image_size=height,
                mean=image.get("mean", OPENAI_MEAN),
                std=image.get("std", OPENAI_STD),
                source=str(weights),
            )
            content = read_weights(weights_file)
            content = content.get("state_dict", content)
            encoder.network.load_state_dict(
                {k.removeprefix(TOWER): v for k, v in content.items() if k.startswith(TOWER)}
            )
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{KEY}={weights}: not a vision transformer of open_clip ({type(error).__name__}: {reason})"
            ) from error
        return encoder.eval()

    def encode_image(self, image: Float[Tensor, "n 3 s s"]) -> tuple[Float[Tensor, "n e"], Float[Tensor, "n f y x"]]:
        """Embedding and map of one forward pass."""
        out = self.network.forward_intermediates(image, indices=1, normalize_intermediates=True, output_fmt="NCHW")
        return out["image_features"], out["image_intermediates"][0]
