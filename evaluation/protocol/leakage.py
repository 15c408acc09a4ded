"""The patient leakage check: which patients a model has seen in training, as its checkpoint's protocol proves."""

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


def check_parts(rows: pd.DataFrame, where: str = "data") -> None:
    """Checks that ids are unique, each patient belongs to one split and no split is empty.

    Raises:
        UserError: naming the id, the patient or the split.
    """
    repeated = rows["id"][rows["id"].duplicated()]
    if len(repeated):
        raise UserError(f"{where}: id {repeated.iloc[0]} stands in two rows; ids must be unique")
    parts = rows.groupby("patient")["split"].nunique()
    if (parts > 1).any():
        patient = parts.index[parts > 1][0]
        found = " and ".join(sorted(rows.loc[rows["patient"] == patient, "split"].unique()))
        raise UserError(f"{where}: patient {patient} is in {found}; a patient belongs to one part")
    for split in SPLITS:
        if not (rows["split"] == split).any():
            raise UserError(f"{where}: no case in the part {split}; classification needs train, val and test")


def same_parts(rows: pd.DataFrame, protocol: dict, present: dict, where: str) -> None:
    """Checks that a model was trained with the splits of the present data.

    Args:
        rows: manifest with `patient` and `split`.
        protocol: of the model.
        present: `CTDataModule.protocol()`.

    Raises:
        UserError: naming the first key in which they differ.
    """
    for key in ("dataset", "seed", "n_folds", "fold", "patients_sha256"):
        theirs = protocol.get(key)
        ours = patients_digest(rows) if key == "patients_sha256" else present.get(key)
        if theirs != ours:
            if key == "patients_sha256":
                theirs, ours = "other patients in its parts", "the present ones"
            raise UserError(f"{where}: {key} {theirs} in training, {ours} here; give the data it was trained on")


def parts_of(rows: pd.DataFrame, protocol: dict, present: dict, where: str) -> Shaped[np.ndarray, " n"]:
    """The split of each case in a model's training: `train`, `val`, `test`, or `""` for a case that was not in it.

    Phantoms are identified by the seed of their population and their index, and a phantom is never a patient. Other
    data are proven by the hash of the patients of each split, with the folds of the manifest if the model has a fold.

    Args:
        rows: manifest with `id`, `patient`, `split` and, with folds, `fold`.
        protocol: of the model.
        present: `CTDataModule.protocol()`.

    Raises:
        UserError: the protocol does not prove the split.
    """
    if "pe_share" in protocol:
        if "pe_share" in present:
            return _parts_of_phantoms(rows, protocol, present)
        return np.full(len(rows), "", dtype="<U5")
    digest = protocol.get("patients_sha256")
    if digest is None:
        raise UserError(f"{where}: its protocol does not say which patients it has seen; {REMEDY}")
    n_folds, fold = protocol.get("n_folds"), protocol.get("fold")
    if n_folds is None:
        theirs = rows["split"].to_numpy(dtype=str)
    else:
        held_out = {int(fold): "test", (int(fold) + 1) % int(n_folds): "val"}
        theirs = np.array([held_out.get(int(f), "train") for f in rows["fold"]], dtype=object).astype(str)
    if patients_digest(rows.assign(split=theirs)) != digest:
        raise UserError(
            f"{where}: the patients of its parts are not those of these data, so that nothing shows whom it has seen; "
            f"{REMEDY}, with dataset.n_folds and a dataset.fold of them"
        )
    return theirs


def parts_of_file(
    rows: pd.DataFrame, path: str | Path, present: dict, origin: str | Path | None = None
) -> Shaped[np.ndarray, " n"]:
    """`parts_of` for a checkpoint; a fine-tuned one has also seen the patients of its `origin` checkpoint.

    Raises:
        UserError: as `parts_of`, or an `origin` that is missing or not the one of the protocol.
    """
    protocol = read(path).protocol
    found = parts_of(rows, protocol, present, str(path))
    start = protocol.get("init_from")
    if start is None:
        return found
    if origin is None or sha256(origin) != start.get("sha256"):
        raise UserError(
            f"{path}: was fine-tuned from {start.get('file')}, so that it may have seen any patient of it; give that "
            "checkpoint as origin=<path>"
        )
    before = parts_of_file(rows, origin, present)
    return np.where(np.isin(before, ("train", "val")), before, found)


def assign_generators(parts: dict[str, Shaped[np.ndarray, " n"]], rows: pd.DataFrame) -> Shaped[np.ndarray, " n"]:
    """For each case the name of a generator that has not seen it, its own test case if there is one.

    Validation cases count as seen, since a checkpoint may have been selected on them.

    Args:
        parts: `parts_of` by generator.

    Raises:
        UserError: all generators have seen a case.
    """
    chosen = np.full(len(rows), "", dtype=object)
    for wanted in ("", "test"):  # the later one takes precedence
        for name, theirs in parts.items():
            chosen[theirs == wanted] = name
    seen = chosen == ""
    if seen.any():
        counts = rows.loc[seen, "split"].value_counts().to_dict()
        what = ", ".join(f"{count} of {split}" for split, count in counts.items())
        raise UserError(
            f"generators: every one of the {len(parts)} given has trained on or been validated with {what} cases; "
            "give out-of-fold generators, one for each dataset.fold of dataset.n_folds, as a list or their folder"
        )
    return chosen


def seen_patients(rows: pd.DataFrame, protocol: dict, earlier: dict[str, dict] | None = None) -> dict:
    """The patients that a run sees, for its protocol, with those of the models that it starts from.

    The hashes have no key, so they are comparable between data sets and do not anonymise a known id.

    Args:
        rows: manifest with `patient` and `split`.
        protocol: of the data.
        earlier: protocols of the models, by name.

    Returns:
        `train` and `val`: short hashes of patients; `phantoms`: populations; `unknown`: models without this entry.
    """
    own: dict = {"train": [], "val": [], "phantoms": [], "unknown": []}
    if "pe_share" in protocol:
        own["phantoms"] = [_population(protocol)]
    else:
        for split in ("train", "val"):
            own[split] = rows.loc[rows["split"] == split, "patient"].map(_hash).tolist()
    found = [own, *(_seen_of(theirs, Path(name).name) for name, theirs in (earlier or {}).items())]
    merged = {key: sorted({value for one in found for value in one[key]}) for key in ("train", "val", "unknown")}
    populations = []
    for population in (population for one in found for population in one["phantoms"]):
        if population not in populations:
            populations.append(population)
    return {**merged, "phantoms": populations}


def check_patient_leakage(
    rows: pd.DataFrame, protocol: dict, present: dict, model: str, remedy: str, allow: bool = False
) -> dict:
    """Refuses to evaluate a model on patients that it has trained on; warns of those it was validated with.

    Args:
        rows: cases to evaluate, `id` and `patient`.
        protocol: of the model.
        present: `CTDataModule.protocol()` of the cases.
        model: key and path, for the message.
        remedy: for the message.
        allow: warn instead.

    Returns:
        Numbers of patients `train` and `val`, and of models without this entry `unknown`.

    Raises:
        UserError: naming the number of patients.
    """
    seen, patients, count = _seen_of(protocol, model), rows["patient"].astype(str), {}
    for split in ("train", "val"):
        if "pe_share" in present:
            parts = [_parts_of_phantoms(rows, population, present) == split for population in seen["phantoms"]]
            met = np.logical_or.reduce([np.zeros(len(rows), dtype=bool), *parts])
        else:
            met = patients.map(_hash).isin(seen[split]).to_numpy(dtype=bool)
        if split == "val" and "split" in rows:  # evaluating the validation split again needs no warning
            met = met & (rows["split"] != "val").to_numpy()
        count[split] = int(patients[met].nunique())
    whole = patients.nunique()
    if count["train"]:
        line = f"{model} has trained on {count['train']} of the {whole} patients that it would be evaluated on"
        if not allow:
            raise UserError(
                f"{line}: {remedy}; if these are other people with the same ids, or you mean it, set "
                "allow_seen_patients=true (model.allow_seen_patients=true in training)"
            )
        log.warning("%s, which allow_seen_patients permits: its scores are no evidence", line)
    if count["val"]:
        log.warning("%s was validated with %d of the %d patients that it is evaluated on", model, count["val"], whole)
    if seen["unknown"]:
        names = ", ".join(seen["unknown"])
        log.warning("%s does not say which patients it has seen, so leakage of the %d here is unknown", names, whole)
    return {**count, "unknown": len(seen["unknown"])}


def check_starting_models(rows: pd.DataFrame, earlier: dict[str, dict], present: dict, allow: bool = False) -> dict:
    """Checks that no model that a run starts from has trained on the run's validation or test patients.

    Args:
        rows: manifest of the run's data.
        earlier: protocols of the models, by `key=path`.
        present: `CTDataModule.protocol()` of the data.
        allow: warn instead.

    Returns:
        `seen_patients` of the run.

    Raises:
        UserError: naming the model and the number of patients.
    """
    for name, protocol in earlier.items():
        remedy = f"give {name.partition('=')[0]} a model of the same split or dataset.fold"
        check_patient_leakage(rows[rows["split"] != "train"], protocol, present, name, remedy, allow)
    return seen_patients(rows, present, earlier)


def _seen_of(protocol: dict, name: str) -> dict:
    if "seen" in protocol:
        return protocol["seen"]
    phantoms = [_population(protocol)] if "pe_share" in protocol and "split" in protocol else []
    return {"train": [], "val": [], "phantoms": phantoms, "unknown": [name]}


def _population(protocol: dict) -> dict:
    return {key: protocol[key] for key in POPULATION if key in protocol}


def _hash(patient: str) -> str:
    return hashlib.sha256(str(patient).encode()).hexdigest()[:12]


def _parts_of_phantoms(rows: pd.DataFrame, protocol: dict, present: dict) -> np.ndarray:
    if (protocol.get("seed"), protocol.get("version")) != (present.get("seed"), present.get("version")):
        return np.full(len(rows), "", dtype="<U5")  # the same id in another population is another phantom
    first = {**FIRST_INDEX, "test": int(protocol.get("test_from", FIRST_INDEX["test"]))}
    index = rows["id"].str.rsplit("_", n=1).str[1].astype(int).to_numpy()
    found = np.full(len(rows), "", dtype="<U5")
    for split in SPLITS:
        found[(index >= first[split]) & (index < first[split] + int(protocol["split"][split]))] = split
    return found
