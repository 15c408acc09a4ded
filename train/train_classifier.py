"""Trains a classifier: `python train/train_classifier.py classifier=ctpa dataset=xrayctpa dataset.root_dir=…`."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # replaced: a file in train/ must not shadow a library

from common.cli import command  # noqa: E402


@command("train_classifier")
def main(cfg) -> None:
    """Data, leak check, what the test can show, network, fit."""
    from train.distributed.devices import choose_devices
    from train.distributed.processes import say

    model, wanted = cfg.model, cfg.classifier
    devices = choose_devices(model.gpus, cfg.trainer.accelerator, cfg.trainer.devices)

    import pytorch_lightning as pl
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    from common.errors import UserError, user_errors
    from dataset.datamodule import prepared_data
    from evaluation.classifiers.hypotheses import PRIMARY
    from train.classifier.data import classifier_protocol, encoder_source, expectation, generated_volumes, refuse_leaks
    from train.classifier.module import INPUTS, ClassifierModule, KeepBest, Labelled, positive_weight
    from train.classifier.networks import check_size
    from train.run.trainer import Intervals
    from train.run.training_run import TrainingRun

    if not isinstance(cfg.trainer.strategy, str) and "ShardedStrategy" in cfg.trainer.strategy._target_:
        raise UserError("trainer=fsdp: a classifier fits one device and is not sharded; take trainer=ddp")
    if wanted.input not in INPUTS:
        raise UserError(f"classifier.input={wanted.input}: choose {', '.join(INPUTS)}")
    run = TrainingRun(cfg, "classifier", devices, model.results_folder)
    pl.seed_everything(model.seed, verbose=False)
    data = prepared_data(
        instantiate(cfg.dataset.source),
        cfg.dataset,
        batch_size=model.batch_size,
        num_batches=model.train_num_steps,
        num_workers=model.num_workers,
        seed=model.seed,
        keep_gb=model.memory.cache_volumes_gb,
    )
    content = data.content_sha256()  # of the data set, before parts of it are wrapped
    key = INPUTS[wanted.input]
    with user_errors():
        if wanted.get("init_from"):
            wanted.init_from = encoder_source(wanted.init_from, data.protocol().get("fold"))
        run.check_config()  # the config of the run holds the file, not the folder
        refuse_leaks(data, wanted.get("init_from"), wanted.get("origin"))
        network = instantiate(wanted.network, _convert_="all")
        shape = (1, *cfg.dataset.volume_size) if key == "ct" else (cfg.dataset.views, 1, *cfg.dataset.xray_size)
        check_size(network, shape, "dataset.volume_size" if key == "ct" else "dataset.xray_size")
        say(PRIMARY)
        say(expectation(data.test.rows, model.expected_auc, cfg.dataset.get("n_folds")))
    generators = None
    if wanted.input == "generated":
        sampler = OmegaConf.to_container(cfg.sampler, resolve=True)
        generators = generated_volumes(data, wanted, sampler, devices)
    with user_errors():
        weight = positive_weight(Labelled(data.train).rows["label"].to_numpy(), model.balance)
    data.train = Labelled(data.train, balanced=model.balance == "sampling")
    data.val = Labelled(data.val, name="val")
    if data.train.unknown or data.val.unknown:
        say(f"left out for an unknown label: {data.train.unknown} training, {data.val.unknown} validation cases")
    protocol = classifier_protocol(wanted, data.protocol(), model.balance, generators)
    module = ClassifierModule(
        network,
        key,
        instantiate(model.optimizer),
        num_batches=model.train_num_steps,
        warmup_batches=model.warmup_steps,
        positive_weight=weight,
        protocol=protocol,
    )
    best = KeepBest(run.folder, model.patience)
    intervals = Intervals(model.train_num_steps, model.validate_every, model.validate_every)
    run.fit(module, data, intervals, content, callbacks=[best], inputs={"init_from": wanted.get("init_from")})
    say(f"validation AUC {best.best:.3f} after {best.step} batches, on {len(data.val)} cases")
    say(best.path)


if __name__ == "__main__":
    main()
