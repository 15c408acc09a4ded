"""Finds trained classifiers, checks them against the data, and computes their logits on the same cases."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from rich.progress import track
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset

from common.errors import UserError
from common.files import sha256
from dataset.datamodule import CTDataModule
from ddpm.checkpoint.load import load_classifier
from ddpm.checkpoint.read import read
from evaluation.classifiers.generated_cases import Generators, all_rows
from evaluation.classifiers.metadata_baseline import metadata_logits
from evaluation.protocol.leakage import check_same_splits, check_splits

CTPA_ON_GENERATED = "ctpa_on_generated"
METADATA = "metadata"
PARTS = ("val", "test")
KEY = {"ct": "ct", "generated": "ct", "xray": "xray"}


@dataclass(frozen=True)
class Found:
    """One trained classifier of one fold; `fold` is None without folds."""

    path: Path
    name: str
    input: str
    fold: int | None
    protocol: dict


def find_classifiers(given, search: str | Path, dataset: str | None = None) -> list[Found]:
    """The classifiers in the files and folders `given`, or the newest of each name and fold under `search`.

    Under `search` those of one data set count: `dataset`, or that of the newest classifier.

    Raises UserError for a missing path, a file that is no classifier, none at all, and two files of one name and fold.
    """
    newest: dict[tuple, Found] = {}
    places = [given] if isinstance(given, str) else list(given or [])
    for place in places or [str(search)]:
        path = Path(place)
        if not path.exists() and places:
            raise UserError(f"classifiers: {place}: no such file or folder")
        files = [path] if path.is_file() else path.glob("**/best.safetensors")
        listed = [_found(file) for file in sorted(files, key=lambda f: f.stat().st_mtime_ns)]
        if not places and listed:
            name = dataset or listed[-1].protocol["data"]["dataset"]
            listed = [one for one in listed if one.protocol["data"]["dataset"] == name]
        for found in listed:
            file = found.path
            if path.is_file() and (found.name, found.fold) in newest:
                other = newest[found.name, found.fold].path
                raise UserError(f"classifiers: {file} and {other} are both {found.name} of fold {found.fold}")
            newest[found.name, found.fold] = found
    if not newest:
        raise UserError(f"classifiers: none under {search}; train them with python train/train_classifier.py")
    return list(newest.values())


def folds_of(found: list[Found]) -> list[int | None]:
    """The folds that every classifier has; UserError if one lacks a fold that another has."""
    by_name: dict[str, set] = {}
    for one in found:
        by_name.setdefault(one.name, set()).add(one.fold)
    every = set().union(*by_name.values())
    for name, folds in by_name.items():
        if folds != every:
            absent = sorted(str(fold) for fold in every - folds)
            raise UserError(f"classifiers: {name} has not been trained for fold {', '.join(absent)}; others have")
    return sorted(every, key=lambda fold: -1 if fold is None else fold)


def score_fold(
    data: CTDataModule,
    found: list[Found],
    generators: Generators | None,
    device: torch.device,
    batch_size: int = 4,
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Logits of all classifiers on the labelled validation and test cases of one fold, and the input of each.

    The classifier of CTs also scores generated volumes, and a baseline without images is fitted. Raises UserError for
    a classifier of other data, window, size or generators.

    Args:
        data: of this fold, after `setup()`.
        found: the classifiers of this fold.
        generators: of the volumes, if a classifier needs them.
    """
    present, rows = data.protocol(), all_rows(data)
    check_splits(data.source.rows, data.source.name)
    for one in found:
        _check(one, rows, present, generators)
    made = generators.make(data, PARTS) if generators is not None else {}
    frames, inputs = [], {}
    for part in PARTS:
        cases = getattr(data, part)
        known = np.flatnonzero(cases.rows["label"].isin((0, 1)))
        frame = cases.rows.iloc[known].reset_index(drop=True).assign(part=part)
        for one in sorted(found, key=lambda one: one.name):
            classifier = load_classifier(one.path)[0].to(device)
            shown = made[part] if one.input == "generated" else cases
            frame[one.name] = _logits(classifier, shown, KEY[one.input], known, device, batch_size, one.name)
            inputs[one.name] = one.input
            if one.input == "ct" and made:
                name = CTPA_ON_GENERATED if one.name == "ctpa" else f"{one.name}_on_generated"
                frame[name] = _logits(classifier, made[part], "ct", known, device, batch_size, name)
                inputs[name] = "ct on generated"
        frames.append(frame)
    baseline = metadata_logits(data.train.rows, *frames)
    if baseline is not None:
        frames = [frame.assign(**{METADATA: logits}) for frame, logits in zip(frames, baseline, strict=True)]
        inputs[METADATA] = "metadata"
    fold = found[0].fold
    return pd.concat(frames, ignore_index=True).assign(fold=0 if fold is None else fold), inputs


def describe(found: list[Found]) -> list[dict]:
    """Plain JSON: the compared classifiers by file hash."""
    keys = ("balance", "chosen", "generators", "init_from")
    return [
        {"name": one.name, "input": one.input, "fold": one.fold, "sha256": sha256(one.path)}
        | {key: one.protocol[key] for key in keys if key in one.protocol}
        for one in sorted(found, key=lambda one: (one.name, -1 if one.fold is None else one.fold))
    ]


def fairness(found: list[Found], generators: Generators | None) -> list[str]:
    """A sentence if no X-ray classifier has the generator's own encoder, or if none starts from its weights."""
    if generators is None:
        return []
    theirs = read(generators.paths[0]).header["components"]["xray_encoder"]
    networks = [read(one.path).header["components"]["classifier"] for one in found if one.input == "xray"]
    encoders = [network["config"].get("encoder", {}) for network in networks]
    if not any(own == {key: theirs[key] for key in ("class", "config")} for own in encoders):
        return ["No X-ray classifier has the generator's own encoder: the primary comparison is not fair."]
    if not any(one.input == "xray" and "init_from" in one.protocol for one in found):
        return ["No X-ray classifier starts from the generator's encoder (classifier.init_from): it may be stronger."]
    return []


def _found(file: Path) -> Found:
    checkpoint = read(file)
    protocol = checkpoint.protocol
    if checkpoint.stage != "classifier" or protocol.get("input") not in KEY or "data" not in protocol:
        raise UserError(f"classifiers: {file}: no classifier of python train/train_classifier.py")
    name = str(protocol["name"])
    if name in (METADATA, CTPA_ON_GENERATED):
        raise UserError(f"classifiers: {file}: the name {name} belongs to another row; train it with another name")
    return Found(file, name, protocol["input"], protocol["data"].get("fold"), protocol)


def _check(one: Found, rows: pd.DataFrame, present: dict, generators: Generators | None) -> None:
    trained = one.protocol["data"]
    check_same_splits(rows, trained, present, str(one.path))
    keys = ("window", "volume_size") if KEY[one.input] == "ct" else ("xray_size", "views")
    for key in keys:
        if trained.get(key) != present.get(key):
            raise UserError(f"{one.path}: dataset.{key}={trained.get(key)} in training, {present.get(key)} here")
    if one.input == "generated":
        if generators is None:
            raise UserError(f"{one.path}: classifies generated volumes; give generators=<those of its training>")
        theirs, ours = one.protocol["generators"], generators.describe()
        for key in ("checkpoints", "sampler", "samples"):
            if theirs[key] != ours[key]:
                was, shown = ("its own", "other files") if key == "checkpoints" else (theirs[key], ours[key])
                raise UserError(f"{one.path}: generators with {key} {was} in training, {shown} here; give the same")


@torch.no_grad()
def _logits(
    classifier: nn.Module, cases: Dataset, key: str, known, device, batch_size: int, name: str
) -> Float[np.ndarray, " n"]:
    found = []
    loader = DataLoader(Subset(cases, known.tolist()), batch_size=batch_size)
    for batch in track(loader, description=f"classifying: {name}"):
        found.append(classifier(batch[key].float().to(device)).float().cpu())
    return torch.cat(found).double().numpy()
