"""Trains the latent DDPM: `python train/train_ddpm.py model=ddpm dataset=xrayctpa dataset.root_dir=<folder>`."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # replaced: a file in train/ must not shadow a library

from common.cli import command  # noqa: E402


@command("train_ddpm")
def main(cfg) -> None:
    """Data, latents, model, fit."""
    from train.distributed.devices import choose_devices, many
    from train.distributed.processes import say

    model = cfg.model
    devices = choose_devices(model.gpus, cfg.trainer.accelerator, cfg.trainer.devices)
    on_gpu = devices["accelerator"] == "gpu"

    import pytorch_lightning as pl
    from hydra.utils import instantiate

    from common.errors import user_errors
    from dataset.datamodule import CTDataModule
    from evaluation.protocol.leakage import check_starting_models
    from train.generator.build_module import build_module
    from train.generator.encode import describe, training_device
    from train.generator.finetuning import Origin, SaveAdapter
    from train.generator.fit_priors import ShowGuess, fit_guesses
    from train.generator.latent_data import LatentData, cache_xray_features, check_latent_size, load_latent_encoder
    from train.run.callbacks import SampleAndScore
    from train.run.compile import compile_in_place
    from train.run.memory import MemoryNeed, activation_bytes, before_choice, keep_choice, settle
    from train.run.run_folder import refuse_changes, run_folder, save_config
    from train.run.run_record import write_record
    from train.run.trainer import fit, make_trainer

    source = instantiate(cfg.dataset.source)
    origin = Origin(model.init_from) if model.init_from else None
    if origin is None:
        latent_encoder = load_latent_encoder(source, model.latent)
        model.vqgan_ckpt = model.vqgan_ckpt or latent_encoder.found_at  # repeated, the run takes the same
        with user_errors():
            latent_encoder.set_scaling(model.latent_scaling)
    else:
        latent_encoder = origin.latent_encoder(source, model.latent)
    shape = check_latent_size(latent_encoder, tuple(cfg.dataset.volume_size), model)
    folder, checkpoint = run_folder("ddpm", model.results_folder, model.results_folder_postfix, model.resume)
    keep_choice(model, folder, many(devices, cfg.trainer.num_nodes))
    refuse_changes(cfg, folder, model.resume_changed)
    pl.seed_everything(model.seed, verbose=False)
    cases = CTDataModule(
        source,
        window=cfg.dataset.window,
        batch_size=before_choice(model),
        num_batches=model.train_num_steps,
        num_workers=model.num_workers,
        seed=model.seed,
        cache_dir=cfg.dataset.cache_dir,
        prepare_workers=cfg.dataset.prepare_workers,
    )
    with user_errors():
        module = build_module(model, cfg.dataset, latent_encoder, shape, origin)
        sampling = SampleAndScore(model.save_and_sample_every, cfg.sampler, model.sampling_timesteps, cases.window)
        sampling.pipeline(module)  # an unknown sampler is refused now, not after hours
    cases.prepare_data()
    cases.setup()
    earlier = (origin or latent_encoder).trained_on
    seen = check_starting_models(source.rows, earlier, cases.protocol(), model.allow_seen_patients)
    data = LatentData(cases, latent_encoder, devices, cfg.trainer.num_nodes, model.cache_latents_gb)
    module.protocol |= {**cases.protocol(), "seen": seen, "latent_reconstruction": data.reconstruction}
    callbacks = [sampling]
    if origin is None:
        with user_errors():
            fit_guesses(module, cases, data, model.prior_pixels, model.pose_guess)
        callbacks.append(ShowGuess(model.guess_from, module))
    if origin is not None:
        origin.warn_of_shift(data.excerpt(), cases.window)
        module.protocol["init_from"] = origin.describe()
        if model.lora:
            callbacks.append(SaveAdapter(folder, origin))
    data_bytes = data.bytes
    if module.freeze_xray_encoder and model.cache_xray:
        with user_errors():
            data_bytes += cache_xray_features(data, module, training_device(devices))
    sampling.cases = cases.val
    denoiser = module.trained["denoiser"]
    if model.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
    one = activation_bytes(denoiser, (1, *shape), (1,), half="16" in str(model.precision))
    frozen = sum(p.numel() for part in (latent_encoder, module) for p in part.parameters() if not p.requires_grad)
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    need = MemoryNeed(frozen + trained, trained, one, data_bytes, on_gpu, averaged=True)
    settle(model, data, need)
    save_config(cfg, folder)
    inputs = {key: model[key] for key in ("vqgan_ckpt", "vae_ckpt", "init_from")}
    write_record(folder, model.seed, cases.content_sha256(), inputs, checkpoint)
    with user_errors():
        trainer = make_trainer(
            cfg.trainer,
            cfg.logger,
            folder,
            devices,
            validate_every=model.validate_every,
            checkpoint_every=model.save_and_sample_every,
            batches=model.train_num_steps,
            callbacks=callbacks,
            accumulate=model.gradient_accumulate_every,
        )
    say(f"latents {list(shape)}; {describe(data.reconstruction)}; {need.line(model.batch_size)}")
    if model.compile:
        compile_in_place(denoiser, training_device(devices).type)
    module.train()  # the check of the sampler has put its parts into eval mode
    fit(trainer, module, data, checkpoint)
    say(folder / "checkpoints" / "last.ckpt")


if __name__ == "__main__":
    main()
