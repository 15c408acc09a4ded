"""Trains a classifier: `python train/train_classifier.py classifier=ctpa dataset=xrayctpa dataset.root_dir=…`."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # replaced: a file in train/ must not shadow a library

from common.cli import command  # noqa: E402


@command("train_classifier")
def main(cfg) -> None:
    """Builds data, network and module, and trains."""
    from train.distributed.devices import choose_devices

    model = cfg.model
    devices = choose_devices(model.gpus, cfg.trainer.accelerator, cfg.trainer.devices)

    from hydra.utils import instantiate

    from train.classifier.data import INPUTS, check_data, label_data, resolve_config, take_data_of_generator
    from train.classifier.module import ClassifierModule, KeepBest
    from train.classifier.networks import build_network
    from train.distributed.processes import print_once
    from train.run.trainer import Intervals
    from train.run.training_run import TrainingRun

    take_data_of_generator(cfg)
    resolve_config(cfg)
    intervals = Intervals(model.train_num_steps, model.validate_every, model.validate_every)
    run = TrainingRun(cfg, "classifier", devices, intervals)
    data = run.prepare_data(instantiate(cfg.dataset.source))
    content = data.content_sha256()
    check_data(cfg, data)
    network, optimizer = build_network(cfg), instantiate(model.optimizer)
    protocol, weight = label_data(cfg, data, devices)
    options = (model.train_num_steps, model.warmup_steps, weight, protocol, model.seed)
    module = ClassifierModule(network, INPUTS[cfg.classifier.input], optimizer, *options)
    best = KeepBest(run.folder, model.patience)
    run.fit(module, data, content, [best], inputs={"init_from": cfg.classifier.get("init_from")})
    print_once(f"validation AUC {best.best:.3f} after {best.step} batches, on {len(data.val)} cases")
    print_once(best.path)


if __name__ == "__main__":
    main()
