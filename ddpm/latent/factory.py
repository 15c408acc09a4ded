"""The latent encoder that a path holds: the one place that looks at a file and chooses a class."""

import json
import logging
from pathlib import Path

from diffusers import AutoencoderKL
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from dataset.errors import UserError
from ddpm.checkpoint import load_vqgan
from ddpm.latent.contract import LatentEncoder
from ddpm.latent.vae import VAE_CLASSES, SliceVAELatents
from ddpm.latent.vqgan import VQGANLatents

log = logging.getLogger(__name__)

VAE_HELP = "model.vae_ckpt=<hub id, folder of a diffusers AutoencoderKL or AutoencoderTiny, or .safetensors file>"


def make_latent_encoder(
    vae_ckpt: str | None = None,
    vqgan_ckpt: str | None = None,
    latent_encoder: str | None = None,
    search: str | None = None,
    slices_per_batch: int = 8,
) -> LatentEncoder:
    """A frozen latent encoder, its statistics not yet measured.

    Args:
        vae_ckpt: hub id, folder or single file of a 2D VAE. Where both are given this one is used.
        vqgan_ckpt: checkpoint of `train_vqgan.py`.
        latent_encoder: `vae` or `vqgan` overrides that order.
        search: folder whose newest VQ-GAN checkpoint is taken where neither is given.

    Raises:
        UserError: naming the key, what was found and how to go on.
    """
    kind = choose(vae_ckpt, vqgan_ckpt, latent_encoder)
    if kind == "vae":
        if not vae_ckpt:
            raise UserError(f"model.latent_encoder=vae needs {VAE_HELP}")
        if vqgan_ckpt:
            log.warning(
                "model.vae_ckpt is used; model.vqgan_ckpt=%s is not read (model.latent_encoder=vqgan reads it)",
                vqgan_ckpt,
            )
        return load_vae(vae_ckpt, slices_per_batch)
    if not vqgan_ckpt:
        vqgan_ckpt = newest_checkpoint(search) if search else None
        if vqgan_ckpt is None:
            raise UserError(
                f"no VQ-GAN checkpoint under {search}: run python train/train_vqgan.py with the same dataset first, "
                "or give model.vqgan_ckpt=<path> or model.vae_ckpt=<path>"
            )
        log.warning("latent encoder: the newest VQ-GAN of this data set, %s", vqgan_ckpt)
    vqgan = load_vqgan(vqgan_ckpt)
    config = {k: v for k, v in dict(vqgan.config).items() if not k.startswith("_")}
    encoder = VQGANLatents(config)
    encoder.network.load_state_dict(vqgan.state_dict())
    return encoder


def choose(vae_ckpt: str | None, vqgan_ckpt: str | None, latent_encoder: str | None) -> str:
    """`vae` or `vqgan`."""
    if latent_encoder not in (None, "vae", "vqgan"):
        raise UserError(f"model.latent_encoder={latent_encoder}: choose vae or vqgan")
    return latent_encoder or ("vae" if vae_ckpt else "vqgan")


def newest_checkpoint(folder: str | Path) -> Path | None:
    """The `last.ckpt` written most recently anywhere under a folder, or None."""
    found = [p for p in Path(folder).glob("**/last.ckpt") if p.is_file()]
    return max(found, key=lambda p: p.stat().st_mtime_ns, default=None)


def load_vae(vae_ckpt: str, slices_per_batch: int = 8) -> SliceVAELatents:
    """A 2D VAE from a folder (its own or a pipeline's `vae` inside), a single `.safetensors` file, or the hub."""
    path = Path(vae_ckpt)
    try:
        if path.is_file():
            vae = AutoencoderKL.from_single_file(str(path))
        elif path.is_dir():
            vae = _load_folder(path)
        else:
            vae = _load_hub(vae_ckpt)
    except (OSError, ValueError, RuntimeError, LocalEntryNotFoundError, HfHubHTTPError) as error:
        reason = (
            " ".join(str(error).split())[:160] if path.exists() else "not on this disk, and not to be had from the hub"
        )
        raise UserError(
            f"model.vae_ckpt={vae_ckpt}: {reason}. Looked for a local path, then in the Hugging Face cache and hub. "
            f"On a machine with a network run: huggingface-cli download {_repository(vae_ckpt)} --include 'vae/*' and "
            "copy its cache here, or give the folder that holds config.json and the weights"
        ) from error
    return SliceVAELatents.from_vae(vae, str(vae_ckpt), slices_per_batch)


def _load_folder(path: Path):
    folder = path if (path / "config.json").is_file() else path / "vae"
    if not (folder / "config.json").is_file():
        raise ValueError(f"neither {path}/config.json nor {path}/vae/config.json exists")
    name = json.loads((folder / "config.json").read_text()).get("_class_name")
    if name not in VAE_CLASSES:
        raise ValueError(f"{folder}/config.json names the class {name}, not one of {', '.join(VAE_CLASSES)}")
    return VAE_CLASSES[name].from_pretrained(folder, local_files_only=True, low_cpu_mem_usage=False)


def _load_hub(hub_id: str):
    try:  # a whole Stable Diffusion repository keeps its VAE in a subfolder
        return AutoencoderKL.from_pretrained(hub_id, subfolder="vae", low_cpu_mem_usage=False)
    except (OSError, ValueError):
        return AutoencoderKL.from_pretrained(hub_id, low_cpu_mem_usage=False)


def _repository(vae_ckpt: str) -> str:
    return vae_ckpt if str(vae_ckpt).count("/") == 1 else "<hub id>"
