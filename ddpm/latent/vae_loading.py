"""A 2D VAE from a folder, a single `.safetensors` file or the hub; never from a pickle.

The keys of a single file identify the architecture; the two public configs of such files are here.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from common.errors import UserError
from ddpm.latent.slice_vae import VAE_CLASSES, SliceVAELatents, vae_type
from ddpm.weights.hub import hub_file, why_missing

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, AutoencoderTiny

VAE_HELP = "model.vae_ckpt=<hub id, folder of a diffusers AutoencoderKL or AutoencoderTiny, or .safetensors file>"

# vae/config.json of stabilityai/stable-diffusion-xl-base-1.0 beside the defaults of AutoencoderKL. Other VAEs of this
# architecture differ in the scaling factor, which the standardisation of the latents cancels.
SDXL_VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "sample_size": 1024,
    "scaling_factor": 0.13025,
}
TAESDXL: dict = {}  # AutoencoderTiny's defaults are the config of madebyollin/taesdxl
WEIGHTS = "diffusion_pytorch_model.safetensors"
HUB_FILES = f"--include vae/config.json --include vae/{WEIGHTS} (without vae/ if the repository is the VAE itself)"
PREFIXES = ("first_stage_model.", "vae.")  # of the VAE's weights inside a whole checkpoint
OLD_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


def load_vae(vae_ckpt: str, slices_per_batch: int = 8) -> SliceVAELatents:
    """The frozen encoder of a VAE; a `UserError` for missing or wrong files says how to get them.

    Args:
        vae_ckpt: folder of a diffusers VAE (or of a pipeline with one in `vae`); `.safetensors` file with the keys of
            diffusers or of the original release, alone or inside a whole checkpoint, with its `config.json` beside it
            if it has one; or a hub id, of a VAE or of a pipeline with one in `vae`.
        slices_per_batch: axial slices encoded or decoded at once.
    """
    path = Path(vae_ckpt).expanduser()
    try:
        if path.is_file():
            vae = _load_file(path)
        elif path.is_dir():
            vae = _load_folder(path)
        else:
            vae = _load_hub(str(vae_ckpt))
    except (EntryNotFoundError, HfHubHTTPError, HFValidationError) as error:
        missing = why_missing("model.vae_ckpt", str(vae_ckpt), "file or folder", HUB_FILES, error)
        raise UserError(f"{missing}; or give {VAE_HELP}") from error
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"model.vae_ckpt={vae_ckpt}: {reason}. Give {VAE_HELP}") from error
    return SliceVAELatents.from_vae(vae, str(vae_ckpt), slices_per_batch)


def _load_folder(path: Path) -> "AutoencoderKL | AutoencoderTiny":
    folder = path if (path / "config.json").is_file() else path / "vae"
    if not (folder / "config.json").is_file():
        raise ValueError(f"neither {path}/config.json nor {path}/vae/config.json exists")
    cls = _vae_class(folder / "config.json")
    return cls.from_pretrained(folder, local_files_only=True, use_safetensors=True, low_cpu_mem_usage=False)


def _load_hub(hub_id: str) -> "AutoencoderKL | AutoencoderTiny":
    """A whole Stable Diffusion repository keeps its VAE in the subfolder `vae`."""
    config = hub_file(hub_id, "vae/config.json", "config.json")
    subfolder = "vae" if config.parent.name == "vae" else ""
    cls = _vae_class(config)
    weights = hub_file(hub_id, f"{subfolder}/{WEIGHTS}".lstrip("/"))
    hub_file(hub_id, f"{subfolder}/config.json".lstrip("/"))  # again, if the weights came with a newer commit
    return cls.from_pretrained(weights.parent, local_files_only=True, use_safetensors=True, low_cpu_mem_usage=False)


def _load_file(path: Path) -> "AutoencoderKL | AutoencoderTiny":
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        prefix = next((p for p in PREFIXES if any(name.startswith(p) for name in names)), "")
        # of a whole checkpoint, twenty times as large, only the VAE is read
        weights = {name.removeprefix(prefix): file.get_tensor(name) for name in names if name.startswith(prefix)}
    cls, config, weights = _describe(weights, path)
    beside = path.parent / "config.json"
    found = json.loads(beside.read_text()) if beside.is_file() else {}
    vae = cls.from_config(found) if found.get("_class_name") == cls.__name__ else cls(**config)
    if any(name.startswith("encoder.down.") for name in weights):
        from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint  # late, as in `vae_type`

        weights = convert_ldm_vae_checkpoint(weights, vae.config)
    vae.load_state_dict(weights)
    return vae


def _describe(weights: dict[str, Tensor], path: Path) -> tuple[type, dict, dict[str, Tensor]]:
    """Class, constructor arguments and weights of a file, from its keys."""
    if "encoder.layers.0.weight" in weights:
        return vae_type("AutoencoderTiny"), TAESDXL, weights
    if "encoder.conv_in.weight" not in weights or "decoder.conv_in.weight" not in weights:
        shown = ", ".join(list(weights)[:3]) or "nothing"
        raise ValueError(f"{path.name} holds {shown}, …: not the encoder and decoder of a 2D VAE")
    for old, new in OLD_ATTENTION.items():
        weights = {name.replace(old, new): value for name, value in weights.items()}
    return vae_type("AutoencoderKL"), SDXL_VAE, weights


def _vae_class(config: Path) -> type:
    name = json.loads(config.read_text()).get("_class_name")
    if name not in VAE_CLASSES:
        raise ValueError(f"{config} names the class {name}, not one of {', '.join(VAE_CLASSES)}")
    return vae_type(name)
