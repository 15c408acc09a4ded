"""Vision transformers of the transformers library as X-ray encoders: CLIP ViT-L/14 and RAD-DINO."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor

from common.errors import UserError
from ddpm.xray_encoder.pretrained import KEY, PretrainedXrayEncoder, fetch

FILES = (("config.json",), ("preprocessor_config.json",), ("model.safetensors", "pytorch_model.bin"))
RESAMPLING = {2: "bilinear", 3: "bicubic"}  # PIL's constants in a preprocessor_config.json
RUNS_CODE = ("auto_map", "trust_remote_code", "custom_pipelines")  # never read
RUN_CODE = ("attn_implementation", "experts_implementation")  # ends of keys by which transformers fetches kernels
MAX_SIDE = 1024  # pixels of an image


class _TransformerXrayEncoder(PretrainedXrayEncoder):
    """The embedding is the pooled class token, the map the patch tokens after the last norm.

    `vision` are the settings in its `config.json`; `image_size`, `mean`, `std` and `interpolation` those in its
    `preprocessor_config.json`; `source` is a hub id or folder, for the record.
    """

    network_name: str

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
        network = self.network_class()
        check_side(image_size)
        self.network = network(network.config_class(**harmless(vision)))
        self.interpolation = interpolation
        self.embedding_dim = self.feature_channels = self.network.config.hidden_size
        self.patches = image_size // self.network.config.patch_size

    @classmethod
    def network_class(cls) -> type:
        """The class of the network in the transformers library."""
        import transformers  # slow

        return getattr(transformers, cls.network_name)

    @classmethod
    def from_weights(cls, weights: str) -> "_TransformerXrayEncoder":
        """The network of a hub id or of a folder with its three files."""
        config_file, image_file, _ = fetch(weights, *FILES)
        network = cls.network_class()
        try:
            found, known = json.loads(config_file.read_text()).get("model_type"), network.config_class.model_type
            expected = {known, known.removesuffix("_vision_model")}
            if found not in expected:
                raise ValueError(f"its config.json names the model type {found}, not {' or '.join(sorted(expected))}")
            with silenced():  # else it lists the weights of a text tower
                loaded, info = network.from_pretrained(
                    config_file.parent, local_files_only=True, output_loading_info=True, dtype="float32"
                )
            lacking = [*info["missing_keys"], *info["mismatched_keys"]]
            if lacking:  # the library would replace them by random numbers
                raise ValueError(f"its weights lack {lacking[0]} and {len(lacking) - 1} more")
            encoder = cls(
                plain_config(loaded.config), **_image(json.loads(image_file.read_text())), source=str(weights)
            )
            encoder.network.load_state_dict(loaded.state_dict())
        except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{KEY}={weights}: {type(error).__name__}: {reason}") from error
        return encoder.eval()

    def encode_image(self, image: Float[Tensor, "n 3 s s"]) -> tuple[Float[Tensor, "n e"], Float[Tensor, "n f y x"]]:
        """Embedding and map of one forward pass."""
        out = self.network(pixel_values=image)
        tokens = out.last_hidden_state[:, -(self.patches**2) :]
        if hasattr(self.network, "post_layernorm"):  # of CLIP, which applies it to its class token alone
            tokens = self.network.post_layernorm(tokens)
        return out.pooler_output, tokens.transpose(1, 2).unflatten(2, (self.patches, self.patches))


class CLIPXrayEncoder(_TransformerXrayEncoder):
    """CLIP's image tower (arXiv:2103.00020), trained on images of the web."""

    network_name = "CLIPVisionModel"


class RadDINOXrayEncoder(_TransformerXrayEncoder):
    """RAD-DINO (arXiv:2401.10815): DINOv2 trained on chest X-rays; a map of 37×37 at 518 pixels."""

    network_name = "Dinov2Model"


@contextmanager
def silenced() -> Iterator[None]:
    """Without the log and the progress bars of the transformers library."""
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def harmless(settings: dict) -> dict:
    """Settings of a network without those that make the library load code, also in nested ones."""
    kept = {k: v for k, v in settings.items() if k not in RUNS_CODE and not k.endswith(RUN_CODE)}
    return {k: harmless(v) if isinstance(v, dict) else v for k, v in kept.items()}


def check_side(image_size: int) -> None:
    """UserError for a side of images that no known network has, as the memory grows with its square."""
    if image_size > MAX_SIDE:
        raise UserError(f"image_size={image_size}: X-ray encoders take at most {MAX_SIDE} pixels a side")


def plain_config(config) -> dict:
    """The entries of a config that differ from the library's defaults, as JSON."""
    ignored = ("architectures", "dtype", "torch_dtype", "transformers_version", "_name_or_path", "model_type")
    return {k: v for k, v in json.loads(config.to_json_string(use_diff=True)).items() if k not in ignored}


def _image(settings: dict) -> dict:
    """Size, mean, standard deviation and interpolation of a preprocessor_config.json."""
    size = settings.get("crop_size") if settings.get("do_center_crop", True) else settings.get("size")
    sides, resample = {size} if isinstance(size, int) else set(size.values()), settings.get("resample", 3)
    if len(sides) != 1:
        raise ValueError(f"its preprocessor_config.json gives images of {size}, not square")
    if resample not in RESAMPLING:
        raise ValueError(f"its preprocessor_config.json gives resample={resample}, not 2 or 3")
    image = {"mean": settings["image_mean"], "std": settings["image_std"]}
    return {"image_size": sides.pop(), **image, "interpolation": RESAMPLING[resample]}
