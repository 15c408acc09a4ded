"""Latents of MAISI's 3D CT VAE (Guo et al., "MAISI", 2024, arXiv:2409.11169), with MONAI's network.

MONAI's bundles and tutorials publish its weights. It was trained on CT from -1000 to 1000 HU in [0, 1], with axes to
the right, anterior and superior, so it suits `dataset.window=wide`. Latents have a quarter of its sides.
"""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path

from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor

from common.errors import UserError
from ddpm.latent.base import LatentEncoder
from ddpm.weights.safe_load import read_weights

KEY = "model.maisi_ckpt"
HELP = f"{KEY}=<folder of MAISI's MONAI bundle, or its autoencoder as .pt or .safetensors>"
PUBLISHED = {  # `autoencoder_def` of MAISI's bundle; of its norms in float16 and its splits only the memory depends
    "num_channels": [64, 128, 256],
    "num_res_blocks": [2, 2, 2],
    "attention_levels": [False, False, False],
    "latent_channels": 4,
    "norm_num_groups": 32,
    "norm_eps": 1e-6,
}
RUNTIME = ("num_splits", "dim_split", "norm_float16", "print_info", "save_mem", "use_checkpointing")
WEIGHTS = ("autoencoder", "model")  # beginnings of the names of weight files in a folder
CONFIGS = ("config.json", "configs/inference.json", "../configs/inference.json")
INNER = ("unet_state_dict", "state_dict", "model")  # where a checkpoint of MONAI keeps the weights


class MaisiLatents(LatentEncoder):
    """A frozen `AutoencoderKlMaisi` of MONAI; latents are the means of its posterior.

    Args:
        maisi: constructor arguments of `AutoencoderKlMaisi` besides `spatial_dims`, `in_channels`, `out_channels`
            and those that only change memory.
        source: path, for the record.
    """

    @register_to_config
    def __init__(self, maisi: dict, source: str = ""):
        super().__init__()
        from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi  # slow

        # splits of MONAI's convolutions are wrong for short sides
        options = {"num_splits": 1, "save_mem": False, "print_info": False, "norm_float16": False}
        shape, network = {"spatial_dims": 3, "in_channels": 1, "out_channels": 1}, {**PUBLISHED, **maisi}
        self.network = AutoencoderKlMaisi(**shape, **network, **options)
        self._factor = 2 ** (len(network["num_channels"]) - 1)
        self._make_statistics(network["latent_channels"])
        self.eval().requires_grad_(False)

    def encode_raw(self, volume: Float[Tensor, "b 1 D H W"]) -> Float[Tensor, "b c d h w"]:
        """Means of the posterior; ValueError for sides that are no multiples of the factor of the network."""
        if any(side % self._factor for side in volume.shape[2:]):
            shown = "×".join(str(side) for side in volume.shape[2:])
            raise ValueError(f"a volume of {shown}: the sides must be multiples of {self._factor}")
        mean, _ = self.network.encode(_to_ras(volume) * 0.5 + 0.5)
        return _from_ras(mean)

    def decode_raw(self, raw: Float[Tensor, "b c d h w"]) -> Float[Tensor, "b 1 D H W"]:
        """Volume of raw latents in [-1, 1], without clipping."""
        return _from_ras(self.network.decode(_to_ras(raw))) * 2.0 - 1.0


def load_maisi(path: str) -> MaisiLatents:
    """The encoder of a folder or file; a `UserError` for missing or wrong files.

    A folder holds weights named `autoencoder…` or `model…`, itself or in `models/`. Constructor arguments other than
    the published ones are read from a `config.json` beside the weights, or from the bundle's `configs/inference.json`
    (`autoencoder_def`); only their values are read.
    """
    place = Path(path).expanduser()
    file = place if place.is_file() else _weights_in(place)
    if file is None:
        raise UserError(f"{KEY}={path}: no such file, or a folder without weights; give {HELP}")
    try:
        weights = read_weights(file)
        while inner := next((weights[name] for name in INNER if isinstance(weights.get(name), Mapping)), None):
            weights = inner
        encoder = MaisiLatents(_network_config(file), str(path))
        encoder.network.load_state_dict(weights)
    except (ValueError, TypeError, KeyError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{KEY}={path}: not MAISI's autoencoder ({reason}); give {HELP}") from error
    return encoder.eval()


def _weights_in(folder: Path) -> Path | None:
    found = [
        file
        for place in (folder, folder / "models")
        for name in WEIGHTS
        for file in sorted(place.glob(f"{name}*"))
        if file.suffix in (".safetensors", ".pt", ".pth")
    ]
    return found[0] if found else None


def _network_config(weights: Path) -> dict:
    """The constructor arguments in a config beside the weights; {} for the published ones."""
    from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi

    file = next((weights.parent / name for name in CONFIGS if (weights.parent / name).is_file()), None)
    content = {} if file is None else json.loads(file.read_text(encoding="utf-8"))
    found = content.get("autoencoder_def", content)
    known = inspect.signature(AutoencoderKlMaisi.__init__).parameters.keys() - {"self", *RUNTIME}
    values = {key: value for key, value in found.items() if key in known}
    values = {key: content.get(v[1:], v) if isinstance(v, str) and v[:1] == "@" else v for key, v in values.items()}
    if any(values.pop(key, wanted) != wanted for key, wanted in (("spatial_dims", 3), ("in_channels", 1))):
        raise ValueError(f"{file} describes no network of CT volumes")
    values.pop("out_channels", None)
    return values


def _to_ras(x: Float[Tensor, "b c i j k"]) -> Float[Tensor, "b c k j i"]:
    """Axes toward (superior, posterior, left) as (right, anterior, superior)."""
    return x.flip(3, 4).permute(0, 1, 4, 3, 2)


def _from_ras(x: Float[Tensor, "b c k j i"]) -> Float[Tensor, "b c i j k"]:
    """The inverse of `_to_ras`."""
    return x.permute(0, 1, 4, 3, 2).flip(3, 4)
