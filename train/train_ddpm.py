"""Trains the latent DDPM: `python train/train_ddpm.py model=ddpm dataset=xrayctpa dataset.root_dir=<folder>`."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # replaced: a file in train/ must not shadow a library

from dataset.command import command  # noqa: E402


@command("train_ddpm")
def main(cfg) -> None:
    """Data, latents, model, fit."""
    from train.devices import choose_devices

    model = cfg.model
    devices = choose_devices(model.gpus, cfg.trainer.accelerator, cfg.trainer.devices)
    on_gpu = devices["accelerator"] == "gpu"

    import os

    import pytorch_lightning as pl
    import torch
    from hydra.utils import instantiate

    from dataset.datamodule import CTDataModule
    from dataset.errors import refusals
    from train.callbacks import SampleAndScore
    from train.denoising import build_module
    from train.latents import LatentData, check_latent_size, load_latent_encoder
    from train.preflight import activation_bytes, preflight
    from train.runs import run_folder, save_config
    from train.session import fit, make_trainer

    source = instantiate(cfg.dataset.source)
    latent_encoder = load_latent_encoder(source, model.latent)
    shape = check_latent_size(latent_encoder, tuple(cfg.dataset.volume_size), model)
    folder, checkpoint = run_folder("ddpm", model.results_folder, model.results_folder_postfix, model.resume)
    pl.seed_everything(model.seed, verbose=False)
    cases = CTDataModule(
        source,
        window=cfg.dataset.window,
        batch_size=model.batch_size,
        num_batches=model.train_num_steps,
        num_workers=model.num_workers,
        seed=model.seed,
        cache_dir=cfg.dataset.cache_dir,
        prepare_workers=cfg.dataset.prepare_workers,
    )
    with refusals():
        module = build_module(model, cfg.dataset, latent_encoder, shape)
        sampling = SampleAndScore(model.save_and_sample_every, cfg.sampler, model.sampling_timesteps, cases.window)
        sampling.pipeline(module)  # an unknown sampler is refused now, not after hours
    cases.prepare_data()
    cases.setup()
    device = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if on_gpu else "cpu")
    data = LatentData(cases, latent_encoder, device)
    module.protocol = cases.protocol()
    sampling.cases = cases.val
    save_config(cfg, folder)
    with refusals():
        trainer = make_trainer(
            cfg.trainer,
            cfg.logger,
            folder,
            devices,
            validate_every=model.validate_every,
            checkpoint_every=model.save_and_sample_every,
            batches=model.train_num_steps,
            callbacks=[sampling],
            accumulate=model.gradient_accumulate_every,
        )
    half = "16" in str(model.precision)
    activations = activation_bytes(module.trained["denoiser"], (1, *shape), (1,), half=half) * model.batch_size
    frozen = sum(p.numel() for p in latent_encoder.parameters())
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    line = preflight(frozen + trained, trained, activations, data.bytes, on_gpu, averaged=True)
    print(f"latents {list(shape)}; {line}", flush=True)
    fit(trainer, module, data, checkpoint)
    print(folder / "checkpoints" / "last.ckpt")


if __name__ == "__main__":
    main()
