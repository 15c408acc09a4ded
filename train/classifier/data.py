"""What a classifier's training owes its data: leak checks, generated volumes, the expected interval, the protocol."""

from pathlib import Path

import pandas as pd
from omegaconf import DictConfig

from common.errors import UserError
from dataset.datamodule import CTDataModule
from ddpm.checkpoint.read import read
from evaluation.classifiers.generated_cases import Generators, all_rows, find_generators
from evaluation.protocol.leakage import check_splits, training_splits_of_file
from evaluation.statistics.roc import expected_half_width

VOLUMES = ("ct", "generated")


def encoder_source(init_from: str | None, fold: int | None) -> str | None:
    """The generator that `classifier.init_from` names: a file itself; of a folder its newest one of this fold.

    Raises:
        UserError: nothing there, or several of other folds.
    """
    if init_from is None:
        return None
    if not Path(init_from).exists():
        raise UserError(f"classifier.init_from={init_from}: no such file or folder; give a last.ckpt of train_ddpm.py")
    found = find_generators(init_from)
    if len(found) > 1:
        found = [path for path in found if read(path).protocol.get("fold") == fold]
    if len(found) != 1:
        raise UserError(f"classifier.init_from={init_from}: holds generators of other folds; name one last.ckpt")
    return str(found[0])


def refuse_leaks(data: CTDataModule, init_from: str | None = None, origin: str | None = None) -> None:
    """No case and no patient in two parts; an encoder to start from has not trained on validation or test.

    Args:
        init_from: generator whose encoder is taken.
        origin: checkpoint that this one was fine-tuned from, if it was.

    Raises:
        UserError: naming the patient, the part or the checkpoint.
    """
    rows = data.source.rows
    check_splits(rows, data.source.name)
    if init_from is None:
        return
    rows = all_rows(data)
    theirs = training_splits_of_file(rows, init_from, data.protocol(), origin)
    seen = rows.loc[(theirs == "train") & (rows["split"] != "train").to_numpy(), "split"].value_counts().to_dict()
    if seen:
        what = " and ".join(f"{count} {split} cases" for split, count in seen.items())
        raise UserError(
            f"classifier.init_from={init_from}: trained on {what} of this data set; give the generator of the same "
            "dataset.fold"
        )


def generated_volumes(data: CTDataModule, classifier: DictConfig, sampler: dict, devices: dict) -> dict:
    """Puts generated volumes in the place of the true ones in training and validation; gives back how they were made.

    Raises:
        UserError: for generators that have seen a case, or none.
    """
    generators = Generators(
        find_generators(classifier.generators),
        sampler,
        samples=classifier.samples,
        seed=classifier.generate_seed,
        batch_size=classifier.generate_batch_size,
        device="cuda" if devices["accelerator"] == "gpu" else "cpu",
        origin=classifier.origin,
    )
    made = generators.make(data, ("train", "val"))
    data.train, data.val = made["train"], made["val"]
    return generators.describe()


def expectation(rows: pd.DataFrame, area: float, n_folds: int | None) -> str:
    """The interval that the test will give, before anything has been trained.

    Raises:
        ValueError: a class that the test part lacks, or an AUC that cannot be.
    """
    positives, negatives = int((rows["label"] == 1).sum()), int((rows["label"] == 0).sum())
    width = expected_half_width(area, positives, negatives, n_folds or 1)
    folds = f" in each of {n_folds} folds, averaged," if n_folds else ""
    return (
        f"to expect: with {positives} positive and {negatives} negative test cases{folds} an AUC of {area:g} comes "
        f"with a 95 % interval of ±{width:.3f} (Hanley and McNeil)"
    )


def classifier_protocol(classifier: DictConfig, data: dict, balance: str, generators: dict | None) -> dict:
    """Plain JSON for the checkpoint. Only what sees volumes has a `window`."""
    said = {"name": classifier.name, "input": classifier.input, "data": data, "balance": balance}
    if classifier.input in VOLUMES:
        said |= {"window": data["window"], "volume_size": data["volume_size"]}
    if generators is not None:
        said["generators"] = generators
    if classifier.get("init_from"):
        said["init_from"] = str(classifier.init_from).rpartition("/")[2]
    return said
