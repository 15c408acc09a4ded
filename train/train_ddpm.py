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

    from hydra.utils import instantiate

    from train.distributed.processes import print_once
    from train.generator.build_data import build_data
    from train.generator.build_module import build_module
    from train.generator.encode import describe
    from train.generator.finetuning import Origin, open_latent_encoder
    from train.generator.origin_config import take_config_of_origin
    from train.run.trainer import Intervals
    from train.run.training_run import Network, TrainingRun

    origin = Origin(model.init_from) if model.init_from else None
    if origin is not None:
        take_config_of_origin(cfg, origin)
        model = cfg.model
    source = instantiate(cfg.dataset.source)
    latent_encoder, shape = open_latent_encoder(source, cfg, origin)
    lengths = (model[key] for key in ("train_num_steps", "validate_every", "save_and_sample_every"))
    intervals = Intervals(*lengths, accumulate=model.gradient_accumulate_every)
    run = TrainingRun(cfg, "ddpm", devices, intervals)
    module = build_module(cfg, latent_encoder, shape, origin)
    data, callbacks = build_data(run, source, module, origin)
    run.fit(
        module,
        data,
        data.content_sha256(),
        callbacks,
        Network(module.trained["denoiser"], [(1, *shape), (1,)], data.bytes, [latent_encoder], averaged=True),
        inputs={key: model[key] for key in ("vqgan_ckpt", "vae_ckpt", "maisi_ckpt", "init_from")},
        summary=f"latents {list(shape)}; {describe(data.reconstruction)}",
        fitted=origin is None,
    )
    print_once(run.last)


if __name__ == "__main__":
    main()
