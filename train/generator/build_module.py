"""Builds the denoising module from the config; rejects parts that do not fit together."""

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from common.errors import user_errors
from dataset.imaging.geometry import make_pose
from dataset.imaging.hu_window import Window
from ddpm.conditioning.condition import make_condition
from ddpm.conditioning.lift import make_lift
from ddpm.conditioning.linear_prior import LinearPrior
from ddpm.conditioning.view_priors import ViewPriors
from ddpm.diffusion.objective import PREDICTIONS
from ddpm.latent import LatentEncoder
from ddpm.module import DDPMModule, GeneratorParts
from train.generator.build_losses import build_losses
from train.generator.finetuning import Origin
from vq_gan_3d.optimisation import Optimisation

VIEW_DROP = 0.5  # default share of samples that train without one of their two views


@user_errors()
def build_module(
    cfg: DictConfig, latent_encoder: LatentEncoder, shape: tuple[int, int, int, int], origin: Origin | None = None
) -> DDPMModule:
    """The module for latents of `shape` `(c, d, h, w)`; `build_data` completes its `protocol`.

    Args:
        origin: run whose weights it starts from.

    Raises UserError for values or sizes that a part rejects, or an origin with other parts.
    """
    model, dataset = cfg.model, cfg.dataset
    options, conditioning = model.prior, model.conditioning
    if not OmegaConf.is_config(model.objective):
        known = f"{', '.join(PREDICTIONS[:-1])} or {PREDICTIONS[-1]}"
        choice = model.objective if model.objective in PREDICTIONS else known
        raise ValueError(f"model.objective={model.objective}: give model.objective.prediction={choice}")
    if model.lora.enabled and origin is None:
        raise ValueError("model.lora.enabled=true adapts a trained model: give it as model.init_from=<checkpoint>")
    xray_encoder = instantiate(model.xray_encoder, _convert_="all")
    volumes = dataset.get("source_window") is not None
    if volumes != xray_encoder.volumetric:
        found, need = ("volumes", "model/xray_encoder=volume") if volumes else ("X-rays", "another model/xray_encoder")
        raise ValueError(f"dataset.source_window={dataset.get('source_window')}: the sources are {found}, use {need}")
    view_drop = _view_drop(conditioning.view_drop, dataset.views, xray_encoder.volumetric)
    if origin is not None:
        origin.check_views(dataset.views, view_drop)
    with_prior = options.rank > 0 and not xray_encoder.volumetric
    _check_prior_start(options.start, with_prior, origin)
    if model.denoiser.regression and model.objective.prediction not in ("sample", "v_prediction"):
        raise ValueError(
            f"model.denoiser.regression=true with model.objective.prediction={model.objective.prediction}: the "
            "network sees no noise and cannot predict it; set model.objective.prediction=sample"
        )
    residual = with_prior and (model.objective.prediction == "sample" or options.preconditioning)
    preconditioning = None
    if options.preconditioning:
        if not with_prior or model.objective.prediction == "epsilon" or model.denoiser.regression:
            raise ValueError(
                "model.prior.preconditioning: needs the linear prior, another model.objective.prediction than "
                "epsilon, and no model.denoiser.regression"
            )
        kept = ("timesteps", "schedule", "zero_terminal_snr", "prediction")
        preconditioning = {key: model.objective[key] for key in kept}
    denoiser = instantiate(
        model.denoiser,
        in_channels=shape[0],
        condition={
            "embedding_dim": xray_encoder.embedding_dim if conditioning.global_embedding else 0,
            "token_channels": xray_encoder.feature_channels if conditioning.token_grid else 0,
        },
        prior={"residual": residual, "preconditioning": preconditioning} if with_prior else None,
        _convert_="all",
    )
    denoiser.check_size(shape[1:])
    lift = make_lift(xray_encoder, conditioning.channels, conditioning.depth_bins) if conditioning.channels else None
    with torch.no_grad():  # rejects a size of X-rays that does not fit the encoder
        views = dataset.volume_size[0] if xray_encoder.volumetric else 1
        encoded = xray_encoder(torch.zeros(1, views, 1, *dataset.xray_size))
        extent = (1.0, 1.0, 1.0)
        make_condition(encoded, lift, make_pose(extent)[None, None], torch.tensor([extent]), shape[1:])
    prior = origin.pipeline.prior if with_prior and origin is not None else None
    if with_prior and origin is None:
        kind = ViewPriors if view_drop else LinearPrior
        prior = kind(shape, dataset.views, options.pixels, options.rank, deviation=options.preconditioning,
                     fill_rank=options.fill_rank, by_leverage=options.preconditioning)  # fmt: skip
    losses = build_losses(model, Window.parse(dataset.window), shape)
    objective = instantiate(model.objective)
    if origin is not None:
        parts = {"denoiser": denoiser, "xray_encoder": xray_encoder, "lift": lift}
        origin.load_into({name: part for name, part in parts.items() if part is not None}, objective.scheduler())
    pose_regressor = None if origin is None else origin.pose_regressor(model.pose_regressor, dataset.views)
    patterns, lora = model.lora.target_modules, None
    if model.lora.enabled:
        patterns = None if patterns is None else list(patterns)
        lora = {"rank": model.lora.rank, "alpha": model.lora.alpha, "patterns": patterns}
    return DDPMModule(
        GeneratorParts(denoiser, xray_encoder, lift, latent_encoder, prior, pose_regressor),
        objective,
        Optimisation(
            instantiate(model.optimizer),
            model.train_num_steps,
            model.warmup_steps,
            model.gradient_accumulate_every,
            model.skip_nonfinite,
        ),
        protocol={
            "volume_size": list(dataset.volume_size),
            "condition_drop": float(conditioning.drop),
            **({"view_drop": view_drop} if view_drop else {}),
        },
        losses=losses,
        ema_decay=model.ema_decay,
        condition_drop=conditioning.drop,
        freeze_xray_encoder=model.freeze_xray_encoder,
        lora=lora,
        seed=model.seed,
    )


def _view_drop(share: float | None, views: int, volumetric: bool) -> float:
    """The share of samples that train without one of their views."""
    if share and (views == 1 or volumetric):
        raise ValueError(f"model.conditioning.view_drop={share}: the samples have one view; leave it out")
    return float((VIEW_DROP if views == 2 and not volumetric else 0.0) if share is None else share)


def _check_prior_start(share: float | None, with_prior: bool, origin: Origin | None) -> None:
    key = f"model.prior.start={share}"
    if share is not None and not (isinstance(share, int | float) and 0.0 <= share < 1.0):
        raise ValueError(f"{key}: give a share of the training, from 0 to below 1")
    if share and not with_prior:
        raise ValueError(f"{key}: there is no linear prior; leave it out")
    if origin is None:
        return
    if share:
        raise ValueError(f"{key}: model.init_from={origin.path} was trained with its prior; leave it out")
    if origin.pipeline.prior is not None and origin.pipeline.prior.config.hidden:
        raise ValueError(
            f"model.init_from={origin.path}: saved before its run used the linear prior (model.prior.start); give a "
            "later checkpoint of it"
        )
