"""Trains the 3D VQ-GAN: `python train/train_vqgan.py dataset=default dataset.root_dir=<folder>`; --help lists all."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # replaced: a file in train/ must not shadow a library

from common.cli import command  # noqa: E402


@command("train_vqgan")
def main(cfg) -> None:
    """Data, model, fit."""
    from train.distributed.devices import choose_devices, many
    from train.distributed.processes import say

    model = cfg.model
    devices = choose_devices(model.gpus, cfg.trainer.accelerator, cfg.trainer.devices)

    import pytorch_lightning as pl
    from hydra.utils import instantiate

    from common.errors import user_errors
    from dataset.datamodule import prepared_data
    from ddpm.checkpoint.write import complete
    from evaluation.metrics import psnr
    from evaluation.protocol.leakage import seen_patients
    from train.run.callbacks import ReconstructionPictures
    from train.run.compile import compile_in_place
    from train.run.memory import MemoryNeed, activation_bytes, before_choice, keep_choice, settle
    from train.run.run_folder import refuse_changes, run_folder, save_config
    from train.run.run_record import write_record
    from train.run.trainer import fit, make_trainer
    from vq_gan_3d.module import VQGANModule
    from vq_gan_3d.perceptual import make_perceptual

    pl.seed_everything(model.seed, verbose=False)
    size = tuple(model.crop or cfg.dataset.volume_size)
    with user_errors():
        network = instantiate(model.network)
        network.check_size(size)
        perceptual = make_perceptual(model.perceptual_network)
    folder, checkpoint = run_folder("vqgan", model.default_root_dir, model.results_folder_postfix, model.resume)
    keep_choice(model, folder, many(devices, cfg.trainer.num_nodes))
    refuse_changes(cfg, folder, model.resume_changed)
    data = prepared_data(
        instantiate(cfg.dataset.source),
        cfg.dataset,
        batch_size=before_choice(model),
        num_batches=model.max_steps,
        num_workers=model.num_workers,
        seed=model.seed,
        crop=model.crop,
        keep_gb=model.cache_volumes_gb,
    )
    protocol = {**data.protocol(), "seen": seen_patients(data.source.rows, data.protocol())}
    adversarial = model.adversarial_weight > 0 and model.discriminator_iter_start < model.max_steps
    module = VQGANModule(
        network,
        optimizer=instantiate(model.optimizer),
        num_batches=model.max_steps,
        warmup_batches=model.warmup_steps,
        commitment_weight=model.commitment_weight,
        discriminator=instantiate(model.discriminator) if adversarial else None,
        discriminator_optimizer=instantiate(model.discriminator_optimizer) if adversarial else None,
        discriminator_iter_start=model.discriminator_iter_start,
        adversarial_weight=model.adversarial_weight,
        perceptual=perceptual,
        perceptual_weight=model.perceptual_weight,
        gradient_clip=model.gradient_clip,
        metrics={"psnr": lambda a, b: psnr(a, b, data_range=2.0)},
        header=complete({"protocol": protocol}),
        seed=model.seed,
        skip_nonfinite=model.skip_nonfinite,
    )
    if model.gradient_checkpointing:
        network.enable_gradient_checkpointing()
    one = activation_bytes(network, (1, 1, *size), half="16" in str(model.precision), forward=_without_codes)
    parameters, on_gpu = sum(p.numel() for p in module.parameters()), devices["accelerator"] == "gpu"
    need = MemoryNeed(parameters, parameters, one, data.cache_bytes(), on_gpu, averaged=False)
    settle(model, data, need)
    save_config(cfg, folder)
    write_record(folder, model.seed, data.content_sha256(), {}, checkpoint)
    trainer = make_trainer(
        cfg.trainer,
        cfg.logger,
        folder,
        devices,
        validate_every=model.validate_every,
        checkpoint_every=model.checkpoint_every,
        batches=model.max_steps,
        callbacks=[ReconstructionPictures(model.picture_every)],
    )
    say(need.line(model.batch_size))
    if model.compile:
        compile_in_place(network, "cuda" if on_gpu else "cpu")
    fit(trainer, module, data, checkpoint)
    say(folder / "checkpoints" / "last.ckpt")


def _without_codes(network, volume):
    return network.decode(network.encode(volume), quantise=False)


if __name__ == "__main__":
    main()
