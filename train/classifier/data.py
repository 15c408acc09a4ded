"""Data of a classifier's training: leakage checks, generated volumes, known labels, and the protocol."""

from pathlib import Path

import numpy as np
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import Dataset

from common.errors import UserError, user_errors
from dataset.datamodule import CTDataModule
from ddpm.checkpoint.read import read
from evaluation.classifiers.generated_cases import Generators, all_rows, find_generators
from evaluation.classifiers.hypotheses import PRIMARY
from evaluation.protocol.checkpoint_data import take_data_of_checkpoint
from evaluation.protocol.leakage import check_splits, training_splits_of_file
from evaluation.statistics.roc import expected_half_width
from train.distributed.devices import own_device
from train.distributed.processes import print_once

INPUTS = {"ct": "ct", "generated": "ct", "xray": "xray"}  # `classifier.input`: key of the batch
BALANCES = ("weight", "sampling", "none")


class Labelled(Dataset):
    """The cases with known labels; `balanced` repeats cases of the rarer class until both have the same number.

    Args:
        cases: with `rows` whose `label` is 0, 1 or -1; takes an index, or an index and a step.
        split: its name, for the message.

    Raises UserError if a class has no case.
    """

    def __init__(self, cases: Dataset, split: str, balanced: bool = False):
        labels = cases.rows["label"].to_numpy()
        groups = [np.flatnonzero(labels == value) for value in (0, 1)]
        for value, group in enumerate(groups):
            if not len(group):
                raise UserError(
                    f"label: no case of class {value} in the split {split} ({len(labels)} cases, "
                    f"{(labels == -1).sum()} of unknown label); a classifier needs both classes in every split"
                )
        self.cases, self.unknown = cases, int((labels == -1).sum())
        longest = max(len(group) for group in groups)
        order = [np.resize(group, longest) for group in groups] if balanced else groups
        self.order = np.sort(np.concatenate(order)).tolist()
        self.rows = cases.rows.iloc[self.order].reset_index(drop=True)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, item: int | tuple[int, int]) -> dict:
        index, step = item if isinstance(item, tuple) else (item, -1)
        return self.cases[(self.order[index], step)] if step >= 0 else self.cases[self.order[index]]


def encoder_source(init_from: str, fold: int | None) -> str:
    """The generator of `classifier.init_from`: the file itself, or of a folder its newest one of this fold.

    Raises UserError for a path that does not exist, or for generators of other folds only.
    """
    if not Path(init_from).exists():
        raise UserError(f"classifier.init_from={init_from}: no such file or folder; give a last.ckpt of train_ddpm.py")
    found = find_generators(init_from)
    if len(found) > 1:
        found = [path for path in found if read(path).protocol.get("fold") == fold]
    if len(found) != 1:
        raise UserError(f"classifier.init_from={init_from}: holds generators of other folds; name one last.ckpt")
    return str(found[0])


def take_data_of_generator(cfg: DictConfig) -> None:
    """Takes data set and sizes from the generator of the volumes, or of `classifier.init_from`, unless given."""
    init_from = cfg.classifier.get("init_from")
    named = init_from if init_from and Path(init_from).exists() else cfg.classifier.get("generators")
    if generators := find_generators(named):
        take_data_of_checkpoint(cfg, "train_classifier", read(generators[0]).protocol, generators[0])


def resolve_config(cfg: DictConfig) -> None:
    """Checks the choices of the config; replaces a folder in `classifier.init_from` by its generator of this fold."""
    classifier, strategy = cfg.classifier, cfg.trainer.strategy
    if not isinstance(strategy, str) and "ShardedStrategy" in strategy._target_:
        raise UserError("trainer=fsdp: a classifier fits one device and is not sharded; use trainer=ddp")
    for key, value, choices in (
        ("classifier.input", classifier.input, INPUTS),
        ("model.balance", cfg.model.balance, BALANCES),
    ):
        if value not in choices:
            raise UserError(f"{key}={value}: choose {', '.join(choices)}")
    if classifier.get("init_from"):
        fold = None if cfg.dataset.get("n_folds") is None else cfg.dataset.fold
        classifier.init_from = encoder_source(classifier.init_from, fold)


@user_errors()
def check_data(cfg: DictConfig, data: CTDataModule) -> None:
    """Refuses patient leakage; prints the primary hypothesis and the expected interval of the test AUC.

    Raises UserError for a patient in two splits, an encoder that was trained on validation or test cases, a test split
    without both classes, or an AUC out of range.
    """
    rows, classifier = data.source.rows, cfg.classifier
    check_splits(rows, data.source.name)
    if init_from := classifier.get("init_from"):
        rows = all_rows(data)
        theirs = training_splits_of_file(rows, init_from, data.protocol(), classifier.get("origin"))
        seen = rows.loc[(theirs == "train") & (rows["split"] != "train").to_numpy(), "split"].value_counts()
        if len(seen):
            found = " and ".join(f"{count} {split} cases" for split, count in seen.items())
            raise UserError(
                f"classifier.init_from={init_from}: trained on {found} of this data set; give the generator of the "
                "same dataset.fold"
            )
    print_once(PRIMARY)
    labels, n_folds = data.test.rows["label"], cfg.dataset.get("n_folds")
    positives, negatives, area = int((labels == 1).sum()), int((labels == 0).sum()), cfg.model.expected_auc
    width = expected_half_width(area, positives, negatives, n_folds or 1)
    folds = f" in each of {n_folds} folds, averaged," if n_folds else ""
    print_once(
        f"expected: with {positives} positive and {negatives} negative test cases{folds} an AUC of {area:g} has a "
        f"95 % interval of ±{width:.3f} (Hanley and McNeil)"
    )


def label_data(cfg: DictConfig, data: CTDataModule, devices: dict) -> tuple[dict, float]:
    """Restricts training and validation to known labels, of generated volumes if the classifier reads those.

    Returns:
        The protocol for checkpoints as plain JSON, and the weight of a positive case in the loss: with
        `model.balance=weight` the number of negatives per positive, else 1.

    Raises UserError for missing generators, or ones that have seen a case; a class without cases.
    """
    classifier, balance, described = cfg.classifier, cfg.model.balance, data.protocol()
    protocol = {"name": classifier.name, "input": classifier.input, "data": described, "balance": balance}
    if classifier.input != "xray":
        protocol |= {key: described[key] for key in ("window", "volume_size")}
    if classifier.input == "generated":
        generators = Generators(
            find_generators(classifier.generators),
            OmegaConf.to_container(cfg.sampler, resolve=True),
            samples=classifier.samples,
            seed=classifier.generate_seed,
            batch_size=classifier.generate_batch_size,
            device=str(own_device(devices)),
            origin=classifier.origin,
        )
        volumes = generators.make(data, ("train", "val"))
        data.train, data.val, protocol["generators"] = volumes["train"], volumes["val"], generators.describe()
    if classifier.get("init_from"):
        protocol["init_from"] = Path(classifier.init_from).name
    labels = Labelled(data.train, "train").rows["label"].to_numpy()
    data.train = Labelled(data.train, "train", balanced=balance == "sampling")
    data.val = Labelled(data.val, "val")
    if data.train.unknown or data.val.unknown:
        print_once(
            f"without known label, left out: {data.train.unknown} training and {data.val.unknown} validation cases"
        )
    return protocol, float((labels == 0).sum() / (labels == 1).sum()) if balance == "weight" else 1.0
