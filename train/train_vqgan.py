"""Trains the 3D VQ-GAN: `python train/train_vqgan.py dataset=default dataset.root_dir=<folder>`; --help lists all."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # replaced: a file in train/ must not shadow a library

from common.cli import command  # noqa: E402


@command("train_vqgan")
def main(cfg) -> None:
    """Builds networks, data and module, and trains."""
    from train.distributed.devices import choose_devices

    model = cfg.model
    devices = choose_devices(model.gpus, cfg.trainer.accelerator, cfg.trainer.devices)

    from hydra.utils import instantiate

    from train.autoencoder import build_module as build
    from train.distributed.processes import print_once
    from train.run.callbacks import ReconstructionPictures
    from train.run.trainer import Intervals
    from train.run.training_run import Network, TrainingRun

    intervals = Intervals(model.train_num_steps, model.validate_every, model.checkpoint_every)
    run = TrainingRun(cfg, "vqgan", devices, intervals)
    size = tuple(model.crop or cfg.dataset.volume_size)
    network, perceptual = build.build_networks(model, size)
    data = run.prepare_data(instantiate(cfg.dataset.source), crop=model.crop)
    if run.checkpoint is None:
        build.fit_components(network, data)
    module = build.build_module(model, network, perceptual, data)
    run.fit(
        module,
        data,
        data.content_sha256(),
        [ReconstructionPictures(model.picture_every)],
        Network(network, [(1, 1, *size)], data.cache_bytes(), forward=build.without_codes),
    )
    if found := build.accuracy(module):
        print_once(found)
    build.warn_below_components(module)
    print_once(run.last)


if __name__ == "__main__":
    main()
