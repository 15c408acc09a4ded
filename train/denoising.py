"""The denoising module out of its config nodes, refused early where its parts do not fit each other."""

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from dataset.geometry import make_pose
from ddpm.latent import LatentEncoder
from ddpm.lifting import RayLift
from ddpm.module import DDPMModule


def build_module(
    model: DictConfig, dataset: DictConfig, latent_encoder: LatentEncoder, shape: tuple[int, int, int, int]
) -> DDPMModule:
    """The module for latents of `shape` `(c, d, h, w)`; its `protocol` is filled in when the data are known.

    Raises:
        ValueError: for values or sizes that a part refuses.
    """
    xray_encoder = instantiate(model.xray_encoder)
    denoiser = instantiate(
        model.denoiser, in_channels=shape[0], embedding_dim=xray_encoder.embedding_dim, _convert_="all"
    )
    denoiser.check_size(shape[1:])
    lift = RayLift(xray_encoder.feature_channels, model.condition_channels, model.depth_bins)
    with torch.no_grad():  # one empty X-ray tells whether its size suits the encoder
        maps = xray_encoder(torch.zeros(1, 1, 1, *dataset.xray_size)).maps
        extent = (1.0, 1.0, 1.0)
        lift(maps, make_pose(extent)[None, None], torch.tensor([extent]), shape[1:])
    return DDPMModule(
        denoiser,
        xray_encoder,
        lift,
        latent_encoder,
        objective=instantiate(model.objective),
        optimizer=instantiate(model.optimizer),
        num_batches=model.train_num_steps,
        volume_size=tuple(dataset.volume_size),
        protocol={},
        loss_type=model.loss_type,
        warmup_steps=model.warmup_steps,
        accumulate=model.gradient_accumulate_every,
        ema_decay=model.ema_decay,
        condition_drop=model.condition_drop,
        freeze_xray_encoder=model.freeze_xray_encoder,
        seed=model.seed,
    )
