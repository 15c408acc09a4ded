"""The latent encoder that the keys of a config name: a 2D VAE, a 3D VQ-GAN or MAISI's 3D VAE."""

import logging

from common.errors import UserError
from common.files import newest_checkpoint
from ddpm.checkpoint.read import read
from ddpm.latent.base import LatentEncoder
from ddpm.latent.maisi import HELP as MAISI_HELP
from ddpm.latent.maisi import load_maisi
from ddpm.latent.vae_loading import VAE_HELP, load_vae

log = logging.getLogger(__name__)


def make_latent_encoder(
    vae_ckpt: str | None = None,
    vqgan_ckpt: str | None = None,
    latent_encoder: str | None = None,
    search: str | None = None,
    slices_per_batch: int = 8,
    maisi_ckpt: str | None = None,
) -> LatentEncoder:
    """A frozen latent encoder without measured statistics; a `UserError` names the key of a missing or wrong file.

    Args:
        vae_ckpt: hub id, folder or single file of a 2D VAE; preferred to `vqgan_ckpt`.
        vqgan_ckpt: checkpoint of `train_vqgan.py`.
        latent_encoder: `vae`, `vqgan` or `maisi`; None takes the first that is given of MAISI, VAE and VQ-GAN.
        search: folder whose newest VQ-GAN checkpoint is used if both are None.
        maisi_ckpt: folder or file of MAISI's 3D VAE.
    """
    if latent_encoder not in (None, "vae", "vqgan", "maisi"):
        raise UserError(f"model.latent_encoder={latent_encoder}: choose vae, vqgan or maisi")
    if (latent_encoder or ("maisi" if maisi_ckpt else "")) == "maisi":
        if not maisi_ckpt:
            raise UserError(f"model.latent_encoder=maisi needs {MAISI_HELP}")
        return load_maisi(maisi_ckpt)
    if (latent_encoder or ("vae" if vae_ckpt else "vqgan")) == "vae":
        if not vae_ckpt:
            raise UserError(f"model.latent_encoder=vae needs {VAE_HELP}")
        if vqgan_ckpt:
            log.warning("model.vae_ckpt is used; model.latent_encoder=vqgan uses model.vqgan_ckpt=%s", vqgan_ckpt)
        return load_vae(vae_ckpt, slices_per_batch)
    if not vqgan_ckpt:
        vqgan_ckpt = newest_checkpoint(search) if search else None
        if vqgan_ckpt is None:
            raise UserError(
                f"no VQ-GAN checkpoint under {search}: run python train/train_vqgan.py with the same dataset first, "
                "or give model.vqgan_ckpt=<path> or model.vae_ckpt=<path>"
            )
        log.warning("latent encoder: the newest VQ-GAN of this data set, %s", vqgan_ckpt)
    return read(vqgan_ckpt).latent_encoder()
