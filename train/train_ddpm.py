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
    devices = choose_devices(model.gpus)

    import pytorch_lightning as pl
    import torch
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    from dataset.datamodule import CTDataModule
    from ddpm.lifting import RayLift
    from ddpm.module import DDPMModule
    from evaluation.metrics import mae_hu, psnr, ssim
    from train.callbacks import SampleAndScore
    from train.latents import LatentData, check_latent_size, refuse_missing
    from train.preflight import activation_bytes, preflight
    from train.runs import run_folder, save_config
    from train.session import fit, make_trainer

    source = instantiate(cfg.dataset.source)
    refuse_missing(source, model)
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
    latent_encoder = instantiate(model.latent)
    cases.prepare_data()
    cases.setup()
    volume_size = tuple(cfg.dataset.volume_size)
    shape = check_latent_size(latent_encoder, volume_size, model)
    on_gpu = devices["accelerator"] == "gpu"
    data = LatentData(cases, latent_encoder, torch.device("cuda" if on_gpu else "cpu"))

    pl.seed_everything(model.seed, verbose=False)
    xray_encoder = instantiate(model.xray_encoder)
    denoiser = instantiate(
        model.denoiser, in_channels=shape[0], embedding_dim=xray_encoder.embedding_dim, _convert_="all"
    )
    module = DDPMModule(
        denoiser,
        xray_encoder,
        RayLift(xray_encoder.feature_channels, model.condition_channels, model.depth_bins),
        latent_encoder,
        objective=instantiate(model.objective),
        optimizer=instantiate(model.optimizer),
        num_batches=model.train_num_steps,
        volume_size=volume_size,
        protocol=cases.protocol(),
        loss_type=model.loss_type,
        warmup_steps=model.warmup_steps,
        accumulate=model.gradient_accumulate_every,
        ema_decay=model.ema_decay,
        condition_drop=model.condition_drop,
        freeze_xray_encoder=model.freeze_xray_encoder,
        seed=model.seed,
    )
    folder, checkpoint = run_folder(model.results_folder, model.results_folder_postfix, model.resume)
    save_config(cfg, folder)
    window = cases.window
    sampler = {**OmegaConf.to_container(cfg.sampler), "steps": model.sampling_timesteps}
    scores = {
        "psnr": lambda a, b: psnr(a, b, data_range=window.width),
        "ssim": lambda a, b: ssim(a, b, data_range=window.width, low=window.low),
        "mae_hu": mae_hu,
    }
    trainer = make_trainer(
        cfg.trainer,
        cfg.logger,
        folder,
        devices,
        validate_every=model.validate_every,
        checkpoint_every=model.save_and_sample_every,
        batches=model.train_num_steps,
        callbacks=[SampleAndScore(model.save_and_sample_every, cases.val, window, scores, sampler=sampler)],
        accumulate=model.gradient_accumulate_every,
    )
    activations = activation_bytes(denoiser, (1, *shape), (1,), half="16" in str(model.precision)) * model.batch_size
    frozen = sum(p.numel() for p in latent_encoder.parameters())
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    line = preflight(frozen + trained, trained, activations, data.bytes, on_gpu, averaged=True)
    print(f"latents {list(shape)}; {line}", flush=True)
    fit(trainer, module, data, checkpoint)
    print(folder / "checkpoints" / "last.ckpt")


if __name__ == "__main__":
    main()
