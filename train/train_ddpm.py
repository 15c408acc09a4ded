"""Trains the latent DDPM: `python train/train_ddpm.py model=ddpm dataset=xrayctpa dataset.root_dir=<folder>`."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # replaced: a file in train/ must not shadow a library

from common.cli import command  # noqa: E402


@command("train_ddpm")
def main(cfg) -> None:
    """Opens the latent encoder, builds module and data, and trains."""
    from train.distributed.devices import choose_devices

    model = cfg.model
    devices = choose_devices(model.gpus, cfg.trainer.accelerator, cfg.trainer.devices)

    import pytorch_lightning as pl
    from hydra.utils import instantiate

    from common.errors import user_errors
    from train.distributed.processes import say
    from train.generator.build_data import build_data, make_cases
    from train.generator.build_module import build_module
    from train.generator.encode import describe
    from train.generator.finetuning import open_latent_encoder
    from train.generator.latent_data import check_latent_size
    from train.run.callbacks import SampleAndScore
    from train.run.trainer import Intervals
    from train.run.training_run import Network, TrainingRun

    source = instantiate(cfg.dataset.source)
    latent_encoder, origin = open_latent_encoder(source, model)
    shape = check_latent_size(latent_encoder, tuple(cfg.dataset.volume_size), model)
    run = TrainingRun(cfg, "ddpm", devices, model.results_folder)
    run.check_config()
    pl.seed_everything(model.seed, verbose=False)
    cases = make_cases(source, cfg, run.batch_size)
    with user_errors():
        module = build_module(model, cfg.dataset, latent_encoder, shape, origin)
        sampling = SampleAndScore(model.save_and_sample_every, cfg.sampler, model.sampling_timesteps, cases.window)
        sampling.pipeline(module)  # refuses an unknown sampler before the slow preparation
    data, callbacks, data_bytes = build_data(cfg, cases, module, origin, run)
    sampling.cases = cases.val
    module.train()  # the check of the sampler put its parts into eval mode
    run.fit(
        module,
        data,
        Intervals(
            model.train_num_steps, model.validate_every, model.save_and_sample_every, model.gradient_accumulate_every
        ),
        cases.content_sha256(),
        callbacks=[sampling, *callbacks],
        network=Network(module.trained["denoiser"], [(1, *shape), (1,)], data_bytes, [latent_encoder], averaged=True),
        inputs={key: model[key] for key in ("vqgan_ckpt", "vae_ckpt", "init_from")},
        summary=f"latents {list(shape)}; {describe(data.reconstruction)}",
    )
    say(run.last)


if __name__ == "__main__":
    main()
