"""Prepares the data of the second stage for a module: cases, leakage check, latents, priors, X-ray features."""

import pytorch_lightning as pl
from omegaconf import DictConfig

from common.errors import user_errors
from dataset.datamodule import CTDataModule
from ddpm.module import DDPMModule
from evaluation.protocol.leakage import check_starting_models
from train.generator.encode import training_device
from train.generator.finetuning import Origin, SaveAdapter
from train.generator.fit_priors import PriorStart, fit_priors
from train.generator.latent_data import LatentData, cache_xray_features
from train.run.training_run import TrainingRun


def make_cases(source, cfg: DictConfig, batch_size: int) -> CTDataModule:
    """The data module of the volumes, not yet prepared."""
    return CTDataModule(
        source,
        window=cfg.dataset.window,
        batch_size=batch_size,
        num_batches=cfg.model.train_num_steps,
        num_workers=cfg.model.num_workers,
        seed=cfg.model.seed,
        cache_dir=cfg.dataset.cache_dir,
        prepare_workers=cfg.dataset.prepare_workers,
    )


def build_data(
    cfg: DictConfig, cases: CTDataModule, module: DDPMModule, origin: Origin | None, run: TrainingRun
) -> tuple[LatentData, list[pl.Callback], int]:
    """Latents of prepared cases, callbacks of the training, and the bytes that data keep in memory.

    Completes the module: its protocol and, without `origin`, its pose regressor and linear prior.

    Raises:
        UserError: for missing data, patients of validation or test in earlier training, or priors that do not fit.
    """
    model = cfg.model
    cases.prepare_data()
    cases.setup()
    earlier = (origin or module.latent_encoder).trained_on
    seen = check_starting_models(cases.source.rows, earlier, cases.protocol(), model.allow_seen_patients)
    data = LatentData(cases, module.latent_encoder, run.devices, cfg.trainer.num_nodes, model.memory.cache_latents_gb)
    module.protocol |= {**cases.protocol(), "seen": seen, "latent_reconstruction": data.reconstruction}
    callbacks: list[pl.Callback] = []
    if origin is None:
        with user_errors():
            fit_priors(module, cases, data, model.prior.pixels, model.pose_regressor)
        callbacks.append(PriorStart(model.prior.start, module))
    else:
        origin.warn_of_shift(data.excerpt(), cases.window)
        module.protocol["init_from"] = origin.describe()
        if model.lora.enabled:
            callbacks.append(SaveAdapter(run.folder, origin))
    data_bytes = data.bytes
    if module.freeze_xray_encoder and model.memory.cache_xray:
        with user_errors():
            data_bytes += cache_xray_features(data, module, training_device(run.devices))
    return data, callbacks, data_bytes
