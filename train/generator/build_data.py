"""Builds the data of the second stage and its callbacks: cases, leakage check, latents, priors, X-ray features."""

import pytorch_lightning as pl

from common.errors import user_errors
from dataset.imaging.hu_window import Window
from ddpm.conditioning.linear_prior import require_patients
from ddpm.module import DDPMModule
from evaluation.protocol.leakage import check_starting_models
from train.generator.finetuning import Origin, SaveAdapter
from train.generator.fit_priors import PriorStart, fit_priors
from train.generator.latent_data import LatentData, cache_xray_features
from train.generator.measure_parts import measure_residual, measure_spread
from train.run.callbacks import SampleAndScore
from train.run.training_run import TrainingRun


@user_errors()
def build_data(
    run: TrainingRun, source, module: DDPMModule, origin: Origin | None
) -> tuple[LatentData, list[pl.Callback]]:
    """Latents of the cases of `source`, and the callbacks of the training.

    Completes the module: its protocol, the decoder's residual, the spread of its training volumes and, without
    `origin`, its pose regressor and linear prior.

    Raises UserError for an unknown sampler, missing data, validation or test patients in earlier training, or priors
    that do not fit.
    """
    cfg, model = run.cfg, run.model
    window = Window.parse(cfg.dataset.window)
    sampling = SampleAndScore(model.save_and_sample_every, cfg.sampler, model.sampling_timesteps, window)
    sampling.pipeline(module)  # rejects an unknown sampler before the slow preparation
    cases = run.prepare_data(source)
    if origin is None and "prior" in module.trained:  # before the latents are encoded
        require_patients(len(cases.train), cases.train.rows["patient"].nunique())
    earlier = (origin or module.latent_encoder).trained_on
    seen = check_starting_models(cases.source.rows, earlier, cases.protocol(), model.allow_seen_patients)
    data = LatentData(cases, module.latent_encoder, run.devices, cfg.trainer.num_nodes, model.memory.cache_latents_gb)
    module.protocol |= {**cases.protocol(), "seen": seen, "latent_reconstruction": data.reconstruction}
    sampling.cases = cases.val
    residual = measure_residual(module.latent_encoder, cases.train, run.device)
    module.keep_measured(residual, measure_spread(cases.train))
    callbacks: list[pl.Callback] = [sampling]
    if origin is None:
        fit_priors(module, cases, data, model.prior.pixels, model.pose_regressor)
        callbacks.append(PriorStart(model.prior.start, module))
    else:
        origin.warn_of_frame(cases.protocol())
        origin.warn_of_shift(data.excerpt(), cases.window)
        module.protocol["init_from"] = origin.describe()
        if model.lora.enabled:
            callbacks.append(SaveAdapter(run.folder, origin))
    if module.freeze_xray_encoder and model.memory.cache_xray:
        data.bytes += cache_xray_features(data, module, run.device)
    module.train()  # the check of the sampler has set eval mode
    return data, callbacks
