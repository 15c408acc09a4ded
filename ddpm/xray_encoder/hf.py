"""Any vision network of `transformers.AutoModel` as X-ray encoder: ViT, DINOv2, DINOv3, SigLIP, CLIP, timm's EVA, ….

RAD-DINO and its variants, MedSigLIP, DINOv3 and others load by their hub id or folder. Size, mean, standard deviation
and interpolation come from their `preprocessor_config.json`, as the library's image processor reads it.
"""

from math import isqrt

import torch
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor

from common.errors import UserError
from ddpm.xray_encoder.pretrained import KEY, PretrainedXrayEncoder, fetch
from ddpm.xray_encoder.transformer import FILES, RESAMPLING, check_side, harmless, plain_config, silenced

RESCALE = 1.0 / 255.0


class HFXrayEncoder(PretrainedXrayEncoder):
    """A vision network of the transformers library, or the image tower of one with two towers.

    The embedding is the pooled output, or the mean of the patches where there is none; the map is of the patch tokens
    after the last norm, without class and register tokens, which come first.

    Args:
        vision: the settings in its `config.json` with `model_type`.
        image_size: side in pixels of the square image.
        mean, std: of the channels, for images in [0, 1].
        interpolation: `bilinear` or `bicubic`.
        source: hub id or folder, for the record.
    """

    @register_to_config
    def __init__(
        self,
        vision: dict,
        image_size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        interpolation: str = "bicubic",
        source: str = "",
    ):
        super().__init__()
        from transformers import AutoConfig, AutoModel  # slow

        check_side(image_size)
        self.network = AutoModel.from_config(AutoConfig.for_model(**harmless(vision)), trust_remote_code=False)
        self.interpolation, self.channels = interpolation, len(mean)
        self.eval()
        with torch.no_grad():
            embedding, maps = self.encode_image(torch.zeros(1, self.channels, image_size, image_size))
        self.embedding_dim, self.feature_channels = embedding.shape[1], maps.shape[1]

    @classmethod
    def from_weights(cls, weights: str | None) -> "HFXrayEncoder":
        """The network of a hub id, or of a folder with `config.json`, `preprocessor_config.json` and weights.

        A `UserError` for missing files, missing weights, and a network that needs code of its own.
        """
        from transformers import AutoConfig, AutoImageProcessor, AutoModel

        if not weights:
            raise UserError(f"{KEY}: missing; give a hub id or a folder of a vision network of transformers")
        config_file, image_file, _ = fetch(weights, *FILES)
        folder, options = config_file.parent, {"local_files_only": True, "trust_remote_code": False}
        try:
            with silenced():
                config = AutoConfig.from_pretrained(folder, **options)
                config = getattr(config, "vision_config", config)
                loaded, info = AutoModel.from_pretrained(
                    folder, config=config, output_loading_info=True, dtype="float32", **options
                )
                image = _image(AutoImageProcessor.from_pretrained(image_file.parent, **options).to_dict(), config)
            if lacking := [*info["missing_keys"], *info["mismatched_keys"]]:
                raise ValueError(f"its weights lack {lacking[0]} and {len(lacking) - 1} more")
            vision = {**plain_config(loaded.config), "model_type": loaded.config.model_type}
            encoder = cls(vision, **image, source=str(weights))
            encoder.network.load_state_dict(loaded.state_dict())
        except (OSError, KeyError, TypeError, ValueError, AttributeError, RuntimeError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{KEY}={weights}: no vision network of transformers ({reason})") from error
        return encoder.eval()

    def encode_image(self, image: Float[Tensor, "n c s s"]) -> tuple[Float[Tensor, "n e"], Float[Tensor, "n f y x"]]:
        """Embedding and map of one forward pass; ValueError for a network without a square grid of patches."""
        out = self.network(pixel_values=image)
        tokens = out.last_hidden_state
        maps = tokens if tokens.ndim == 4 else _grid(tokens, self._side(image))
        pooled = getattr(out, "pooler_output", None)
        return (maps.mean(dim=(2, 3)) if pooled is None else pooled.flatten(1)), maps

    def _side(self, image: Float[Tensor, "n c s s"]) -> int | None:
        """Patches along a side by the settings of the network; None if they do not say."""
        patch = getattr(self.network.config, "patch_size", None)
        return image.shape[-1] // patch if isinstance(patch, int) else None


def _grid(tokens: Float[Tensor, "n t e"], side: int | None) -> Float[Tensor, "n e p p"]:
    """The last tokens as a square map of `side` patches; None takes the largest square."""
    side = side or isqrt(tokens.shape[1])
    if not 2 <= side <= isqrt(tokens.shape[1]):
        raise ValueError(f"{tokens.shape[1]} tokens hold no {side}x{side} patches")
    return tokens[:, -side * side :].transpose(1, 2).unflatten(2, (side, side))


def _image(settings: dict, config) -> dict:
    """Arguments of the constructor from the settings of an image processor; ValueError for those it cannot follow."""
    size = (settings.get("crop_size") if settings.get("do_center_crop") else None) or settings.get("size")
    if size is None and "data_config" in settings:  # of timm
        data = settings["data_config"]
        settings = {"image_mean": data["mean"], "image_std": data["std"], "resample": data.get("interpolation")}
        size = data["input_size"][-1]
    sides = {size} if isinstance(size, int) else {side for side in size.values() if side is not None}
    if len(sides) != 1:
        raise ValueError(f"images of {size}, not square")
    resample = settings.get("resample")
    resample = 2 if resample is None else resample
    interpolation = resample if resample in RESAMPLING.values() else RESAMPLING.get(int(resample))
    if interpolation is None:
        raise ValueError(f"resample={resample}, not 2 (bilinear) or 3 (bicubic)")
    if settings.get("do_rescale", True) and abs(settings.get("rescale_factor", RESCALE) - RESCALE) > 1e-6:
        raise ValueError(f"rescale_factor={settings['rescale_factor']}, not 1/255")
    channels = int(getattr(config, "num_channels", 3))
    normal = settings.get("do_normalize", True)
    values = {"mean": settings["image_mean"] if normal else 0.0, "std": settings["image_std"] if normal else 1.0}
    values = {name: [value] * channels if isinstance(value, float) else list(value) for name, value in values.items()}
    return {"image_size": int(sides.pop()), "interpolation": interpolation, **values}
