"""The patient leakage check: which patients a model has seen in training, by the protocol of its checkpoint.

In all functions `rows` is the manifest of the data (`id`, `patient`, `split`, `fold`), `present` their
`CTDataModule.protocol()`, `protocol` that of a model, and `where` or `model` its name in messages.
"""

import hashlib
import logging
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Shaped

from common.errors import UserError
from common.files import sha256
from dataset.manifest.splits import patients_digest
from dataset.manifest.table import SPLITS
from dataset.sources.phantom import FIRST_INDEX
from ddpm.checkpoint.read import read

REMEDY = "train it again with this version and these data"
POPULATION = ("seed", "version", "test_from", "split")  # protocol keys that identify a population of phantoms

log = logging.getLogger(__name__)


def check_splits(rows: pd.DataFrame, where: str = "data") -> None:
    """Raises UserError if an id repeats, a patient is in two splits or a split is empty."""
    repeated = rows["id"][rows["id"].duplicated()]
    if len(repeated):
        raise UserError(f"{where}: id {repeated.iloc[0]} stands in two rows; ids must be unique")
    splits = rows.groupby("patient")["split"].unique()
    shared = splits[splits.map(len) > 1]
    if len(shared):
        found = " and ".join(sorted(shared.iloc[0]))
        raise UserError(f"{where}: patient {shared.index[0]} is in {found}; a patient belongs to one split")
    for split in SPLITS:
        if not (rows["split"] == split).any():
            raise UserError(f"{where}: no case in the split {split}; classification needs train, val and test")


def check_same_splits(rows: pd.DataFrame, protocol: dict, present: dict, where: str) -> None:
    """Raises UserError if a model was trained with other splits than those of the present data."""
    remedy = "give the data it was trained on"
    for key in ("dataset", "seed", "n_folds", "fold"):
        theirs, ours = protocol.get(key), present.get(key)
        if theirs != ours:
            raise UserError(f"{where}: {key} {theirs} in training, {ours} here; {remedy}")
    if protocol.get("patients_sha256") != patients_digest(rows):
        raise UserError(f"{where}: its splits contained other patients in training; {remedy}")


def training_splits(rows: pd.DataFrame, protocol: dict, present: dict, where: str) -> Shaped[np.ndarray, " n"]:
    """The split of each case in the training of a model: `train`, `val`, `test`, or `""` if it was in none.

    Phantoms are identified by the seed of their population and their index; a phantom is never a patient. Other data
    are identified by the hash of the patients of each split, with the folds of the manifest if the model has a fold.
    UserError if the protocol does not identify the splits.
    """
    if "pe_share" in protocol:
        if "pe_share" in present:
            return _splits_of_phantoms(rows, protocol, present)
        return np.full(len(rows), "", dtype="<U5")
    digest = protocol.get("patients_sha256")
    if digest is None:
        raise UserError(f"{where}: its protocol does not contain the patients of its training; {REMEDY}")
    n_folds, fold = protocol.get("n_folds"), protocol.get("fold")
    if n_folds is None:
        theirs = rows["split"].to_numpy(dtype=str)
    else:
        held_out = {int(fold): "test", (int(fold) + 1) % int(n_folds): "val"}
        theirs = np.array([held_out.get(int(f), "train") for f in rows["fold"]], dtype=str)
    if patients_digest(rows.assign(split=theirs)) != digest:
        raise UserError(
            f"{where}: its splits contain other patients than these data, so those of its training are unknown; "
            f"{REMEDY}, with dataset.n_folds and a dataset.fold of them"
        )
    return theirs


def training_splits_of_file(
    rows: pd.DataFrame, path: str | Path, present: dict, origin: str | Path | None = None
) -> Shaped[np.ndarray, " n"]:
    """`training_splits` of a checkpoint, with the patients of `origin` for a fine-tuned one.

    Raises UserError as `training_splits`, and for an `origin` that is missing or not the one of the protocol.
    """
    protocol = read(path).protocol
    found = training_splits(rows, protocol, present, str(path))
    start = protocol.get("init_from")
    if start is None:
        return found
    if origin is None or sha256(origin) != start.get("sha256"):
        raise UserError(
            f"{path}: was fine-tuned from {start.get('file')} and has seen the patients of that checkpoint too; give "
            "it as origin=<path>"
        )
    before = training_splits_of_file(rows, origin, present)
    return np.where(np.isin(before, ("train", "val")), before, found)


def assign_generators(splits: dict[str, Shaped[np.ndarray, " n"]], rows: pd.DataFrame) -> Shaped[np.ndarray, " n"]:
    """For each case the name of a generator that has not seen it, preferably one that has it as a test case.

    Validation cases count as seen, since a checkpoint may have been selected on them. `splits` are `training_splits`
    by generator. UserError if all generators have seen a case.
    """
    chosen = np.full(len(rows), "", dtype=object)
    for wanted in ("", "test"):  # the later one takes precedence
        for name, theirs in splits.items():
            chosen[theirs == wanted] = name
    seen = chosen == ""
    if seen.any():
        counts = rows.loc[seen, "split"].value_counts().to_dict()
        what = ", ".join(f"{count} of {split}" for split, count in counts.items())
        raise UserError(
            f"generators: all {len(splits)} were trained or validated on {what} cases; "
            "give out-of-fold generators, one for each dataset.fold of dataset.n_folds, as a list or their folder"
        )
    return chosen


def seen_patients(rows: pd.DataFrame, protocol: dict, earlier: dict[str, dict] | None = None) -> dict:
    """The patients of a run and of the models that it starts from, for its protocol.

    `protocol` is that of the data, `earlier` has those of the models by name. Returns `train` and `val`, short hashes
    of patients, `phantoms`, populations, and `unknown`, models without this entry. The hashes have no key, so they are
    comparable between data sets and do not anonymise a known id.
    """
    own: dict = {"train": [], "val": [], "phantoms": [], "unknown": []}
    if "pe_share" in protocol:
        own["phantoms"] = [_population(protocol)]
    else:
        for split in ("train", "val"):
            own[split] = rows.loc[rows["split"] == split, "patient"].map(_hash).tolist()
    found = [own, *(_seen_of(theirs, Path(name).name) for name, theirs in (earlier or {}).items())]
    merged = {key: sorted({value for one in found for value in one[key]}) for key in ("train", "val", "unknown")}
    phantoms = [population for one in found for population in one["phantoms"]]
    return {**merged, "phantoms": [one for i, one in enumerate(phantoms) if one not in phantoms[:i]]}


def check_patient_leakage(
    rows: pd.DataFrame, protocol: dict, present: dict, model: str, remedy: str, allow: bool | None = None
) -> dict:
    """Raises UserError if a model was trained on patients of `rows`; with `allow` and for validation it warns.

    `allow` is the key `allow_seen_patients` of the command, which the error names; None if the command has none.
    Returns the numbers of patients `train` and `val`, and of models with an unknown training, `unknown`.
    """
    seen, patients, count = _seen_of(protocol, model), rows["patient"].astype(str), {}
    for split in ("train", "val"):
        if "pe_share" in present:
            splits = [_splits_of_phantoms(rows, population, present) == split for population in seen["phantoms"]]
            met = np.logical_or.reduce([np.zeros(len(rows), dtype=bool), *splits])
        else:
            met = patients.map(_hash).isin(seen[split]).to_numpy(dtype=bool)
        if split == "val" and "split" in rows:  # the validation split itself needs no warning
            met = met & (rows["split"] != "val").to_numpy()
        count[split] = int(patients[met].nunique())
    total = patients.nunique()
    if count["train"]:
        line = f"{model} was trained on {count['train']} of the {total} patients to be evaluated"
        if allow is None:
            raise UserError(f"{line}: {remedy}, or rename them if they are other people with the same ids")
        if not allow:
            raise UserError(
                f"{line}: {remedy}; if these are other people with the same ids, or you mean it, set "
                "allow_seen_patients=true (model.allow_seen_patients=true in training)"
            )
        log.warning("%s, which allow_seen_patients permits: its scores are no evidence", line)
    if count["val"]:
        log.warning("%s was validated on %d of the %d patients to be evaluated", model, count["val"], total)
    if seen["unknown"]:
        names = ", ".join(seen["unknown"])
        log.warning("%s: the protocol has no patients of the training; leakage of %d patients unknown", names, total)
    return {**count, "unknown": len(seen["unknown"])}


def check_starting_models(rows: pd.DataFrame, earlier: dict[str, dict], present: dict, allow: bool = False) -> dict:
    """`seen_patients` of a run; UserError if a model it starts from was trained on its validation or test patients.

    `earlier` has the protocols of the models by `key=path`; with `allow` it warns instead.
    """
    for name, protocol in earlier.items():
        remedy = f"give {name.partition('=')[0]} a model of the same split or dataset.fold"
        check_patient_leakage(rows[rows["split"] != "train"], protocol, present, name, remedy, allow)
    return seen_patients(rows, present, earlier)


def _seen_of(protocol: dict, name: str) -> dict:
    phantoms = [_population(protocol)] if "pe_share" in protocol and "split" in protocol else []
    return protocol.get("seen", {"train": [], "val": [], "phantoms": phantoms, "unknown": [name]})


def _population(protocol: dict) -> dict:
    return {key: protocol[key] for key in POPULATION if key in protocol}


def _hash(patient: str) -> str:
    return hashlib.sha256(str(patient).encode()).hexdigest()[:12]


def _splits_of_phantoms(rows: pd.DataFrame, protocol: dict, present: dict) -> np.ndarray:
    found = np.full(len(rows), "", dtype="<U5")
    if any(protocol.get(key) != present.get(key) for key in ("seed", "version")):
        return found  # the same id in another population is another phantom
    first = {**FIRST_INDEX, "test": int(protocol.get("test_from", FIRST_INDEX["test"]))}
    index = rows["id"].str.rsplit("_", n=1).str[1].astype(int).to_numpy()
    for split in SPLITS:
        found[(index >= first[split]) & (index < first[split] + int(protocol["split"][split]))] = split
    return found
