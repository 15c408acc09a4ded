"""Trains the lung network of X-rays: `python train/train_lung_network.py dataset=chests`; --help lists all."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # replaced: a file in train/ must not shadow a library

from common.cli import command  # noqa: E402


@command("train_lung_network")
def main(cfg) -> None:
    """Renders DRRs with lung masks, builds the network, trains, and writes it beside the checkpoints."""
    from train.distributed.devices import choose_devices

    model = cfg.model
    devices = choose_devices(model.gpus, cfg.trainer.accelerator, cfg.trainer.devices)

    from hydra.utils import instantiate

    from dataset.imaging.lung_network import LungNetwork
    from train.distributed.processes import first_process, print_once
    from train.lungs.data import lung_data
    from train.lungs.module import LungModule
    from train.run.trainer import Intervals
    from train.run.training_run import TrainingRun

    intervals = Intervals(model.train_num_steps, model.validate_every, model.checkpoint_every)
    run = TrainingRun(cfg, "lungs", devices, intervals)
    data = run.prepare_data(instantiate(cfg.dataset.source))
    content, protocol = data.content_sha256(), data.protocol()
    lung_data(data, instantiate(model.film), model.drrs, model.phantoms, model.seed, cfg.dataset.prepare_workers)
    network = LungNetwork(tuple(model.channels))
    module = LungModule(network, instantiate(model.optimizer), model.train_num_steps, model.warmup_steps)
    run.fit(module, data, content, [])
    path = run.folder / "lungs_xray.safetensors"
    if first_process():
        notes = {"dataset": protocol["dataset"], "version": protocol["version"], "batches": model.train_num_steps}
        module.save(path, {**notes, "drrs": model.drrs, "phantoms": model.phantoms, "seed": model.seed})
    print_once(path)


if __name__ == "__main__":
    main()
