"""The leak check: which patients a trained model has seen, proven by its checkpoint's protocol, or refused."""

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
POPULATION = ("seed", "version", "test_from", "split")  # of a protocol of phantoms: what tells which were drawn

log = logging.getLogger(__name__)


def check_parts(rows: pd.DataFrame, where: str = "data") -> None:
    """Refuse a table in which a case or a patient stands in two parts, or a part is empty.

    Raises:
        UserError: naming the id, the patient or the part.
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
    """Refuse a model whose parts are not those of the present data.

    Args:
        rows: manifest with `patient` and `split`.
        protocol: of the data that the model was trained on.
        present: `CTDataModule.protocol()` of the present ones.

    Raises:
        UserError: naming the key in which they differ.
    """
    for key in ("dataset", "seed", "n_folds", "fold", "patients_sha256"):
        theirs = protocol.get(key)
        ours = patients_digest(rows) if key == "patients_sha256" else present.get(key)
        if theirs != ours:
            if key == "patients_sha256":
                theirs, ours = "other patients in its parts", "the present ones"
            raise UserError(f"{where}: {key} {theirs} in training, {ours} here; give the data it was trained on")


def parts_of(rows: pd.DataFrame, protocol: dict, present: dict, where: str) -> Shaped[np.ndarray, " n"]:
    """In which part of a model's training each case lay: `train`, `val`, `test`, or `""` where it is foreign to it.

    Three proofs are accepted. Phantoms are no patients, and among phantoms index and seed of the population tell which
    were seen. Folds of one manifest: the patients of its parts, hashed, are those that the present folds give. One
    split: the hash is that of the present parts.

    Args:
        rows: manifest of the present data with `id`, `patient`, `split` and, with folds, `fold`.
        protocol: of the model.
        present: `CTDataModule.protocol()`.

    Raises:
        UserError: where nothing is proven.
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
        judged = {int(fold): "test", (int(fold) + 1) % int(n_folds): "val"}
        theirs = np.array([judged.get(int(f), "train") for f in rows["fold"]], dtype=object).astype(str)
    if patients_digest(rows.assign(split=theirs)) != digest:
        raise UserError(
            f"{where}: the patients of its parts are not those of these data, so that nothing shows whom it has seen; "
            f"{REMEDY}, with dataset.n_folds and a dataset.fold of them"
        )
    return theirs


def parts_of_file(
    rows: pd.DataFrame, path: str | Path, present: dict, origin: str | Path | None = None
) -> Shaped[np.ndarray, " n"]:
    """`parts_of` of a checkpoint; one that was fine-tuned has seen what its origin has seen, too.

    Args:
        origin: checkpoint that it was fine-tuned from, which must be the one of its protocol.

    Raises:
        UserError: where nothing is proven, of the checkpoint or of its origin.
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
    """For every case the name of the generator whose own test case it is, or one that it is foreign to.

    A generator's validation cases count as seen: its checkpoint may have been chosen on them.

    Args:
        parts: of `parts_of`, by generator.

    Raises:
        UserError: where every generator has seen a case; the line counts them and says what is missing.
    """
    chosen = np.full(len(rows), "", dtype=object)
    for wanted in ("", "test"):  # a case that is a generator's own test case goes to that one
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
    """What a run has seen, for its own protocol: its data, and what the models that it starts from have seen.

    Args:
        rows: manifest of its data with `patient` and `split`.
        protocol: of its data.
        earlier: protocols of these models, by name.

    Returns:
        `train` and `val`: short hashes of patients; `phantoms`: populations of drawn ones; `unknown`: the models that
        do not say. The hashes hold no key, so that two data sets can be compared: they hide nobody whose id is known.
    """
    own: dict = {"train": [], "val": [], "phantoms": [], "unknown": []}
    if "pe_share" in protocol:
        own["phantoms"] = [_population(protocol)]
    else:
        for split in ("train", "val"):
            own[split] = list(_hashes(rows.loc[rows["split"] == split, "patient"]))
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
    """Refuse to judge a model on patients that it has trained on; warn of those it was validated with.

    Args:
        rows: cases to be judged, `id` and `patient`.
        protocol: of the model.
        present: `CTDataModule.protocol()` of the data that the cases are from.
        model: key and path, for the line.
        remedy: what to give instead.
        allow: warn only.

    Returns:
        Counts of patients `train` and `val`, and `unknown`: of models behind it that do not say whom they saw.

    Raises:
        UserError: counting the patients.
    """
    seen = _seen_of(protocol, model)
    patients = rows["patient"].astype(str)
    count = {}
    for split in ("train", "val"):
        if "pe_share" in present:
            drawn = [_parts_of_phantoms(rows, population, present) == split for population in seen["phantoms"]]
            met = np.logical_or.reduce([np.zeros(len(rows), dtype=bool), *drawn])
        else:
            met = patients.map(_hash).isin(seen[split]).to_numpy(dtype=bool)
        if split == "val" and "split" in rows:  # validated again is no news
            met = met & (rows["split"] != "val").to_numpy()
        count[split] = int(patients[met].nunique())
    whole = patients.nunique()
    if count["train"]:
        line = f"{model} has trained on {count['train']} of the {whole} patients that it is to be judged on"
        if not allow:
            raise UserError(
                f"{line}: {remedy}; if these are other people with the same ids, or you mean it, set "
                "allow_seen_patients=true (model.allow_seen_patients=true in training)"
            )
        log.warning("%s; allow_seen_patients lets it pass: its scores are no evidence", line)
    if count["val"]:
        log.warning("%s was validated with %d of the %d patients it is judged on", model, count["val"], whole)
    if seen["unknown"]:
        log.warning(
            "%s does not say which patients were seen: nothing shows that the %d here are new to it",
            ", ".join(seen["unknown"]), whole,
        )  # fmt: skip
    return {**count, "unknown": len(seen["unknown"])}


def check_starting_models(rows: pd.DataFrame, earlier: dict[str, dict], present: dict, allow: bool = False) -> dict:
    """Before a run that starts from other models: none of them has trained on its validation or test patients.

    Args:
        rows: manifest of the run's data.
        earlier: protocols of these models, by `key=path`.
        present: `CTDataModule.protocol()` of these data.
        allow: warn only.

    Returns:
        `seen_patients` of the run.

    Raises:
        UserError: naming the model and counting the patients.
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


def _hashes(patients: pd.Series) -> list[str]:
    return sorted({_hash(patient) for patient in patients})


def _parts_of_phantoms(rows: pd.DataFrame, protocol: dict, present: dict) -> np.ndarray:
    if (protocol.get("seed"), protocol.get("version")) != (present.get("seed"), present.get("version")):
        return np.full(len(rows), "", dtype="<U5")  # another population: the same name is another patient
    first = {**FIRST_INDEX, "test": int(protocol.get("test_from", FIRST_INDEX["test"]))}
    index = rows["id"].str.rsplit("_", n=1).str[1].astype(int).to_numpy()
    found = np.full(len(rows), "", dtype="<U5")
    for split in SPLITS:
        found[(index >= first[split]) & (index < first[split] + int(protocol["split"][split]))] = split
    return found
