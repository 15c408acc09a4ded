"""Trains the 3D VQ-GAN: `python train/train_vqgan.py dataset=default dataset.root_dir=<folder>`; --help lists all."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # replaced: a file in train/ must not shadow a library

from common.cli import command  # noqa: E402


@command("train_vqgan")
def main(cfg) -> None:
    """Builds network, data and module, and trains."""
    from train.distributed.devices import choose_devices

    model = cfg.model
    devices = choose_devices(model.gpus, cfg.trainer.accelerator, cfg.trainer.devices)

    import pytorch_lightning as pl
    from hydra.utils import instantiate

    from common.errors import user_errors
    from dataset.datamodule import prepared_data
    from train.autoencoder.build_module import build_module, without_codes
    from train.distributed.processes import say
    from train.run.callbacks import ReconstructionPictures
    from train.run.trainer import Intervals
    from train.run.training_run import Network, TrainingRun
    from vq_gan_3d.perceptual import make_perceptual

    pl.seed_everything(model.seed, verbose=False)
    size = tuple(model.crop or cfg.dataset.volume_size)
    with user_errors():
        network = instantiate(model.network)
        network.check_size(size)
        perceptual = make_perceptual(**model.losses.perceptual)
    run = TrainingRun(cfg, "vqgan", devices, model.default_root_dir)
    run.check_config()
    options = {"num_batches": model.max_steps, "num_workers": model.num_workers, "seed": model.seed}
    options |= {"batch_size": run.batch_size, "crop": model.crop, "keep_gb": model.memory.cache_volumes_gb}
    data = prepared_data(instantiate(cfg.dataset.source), cfg.dataset, **options)
    module = build_module(model, network, perceptual, data)
    run.fit(
        module,
        data,
        Intervals(model.max_steps, model.validate_every, model.checkpoint_every),
        data.content_sha256(),
        callbacks=[ReconstructionPictures(model.picture_every)],
        network=Network(network, [(1, 1, *size)], data.cache_bytes(), forward=without_codes),
    )
    say(run.last)


if __name__ == "__main__":
    main()
