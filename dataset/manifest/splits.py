"""Splits and cross-validation folds by patient, stratified by label, determined by a seed."""

import hashlib
import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.errors import UserError
from dataset.manifest.patient_linkage import merge_patients
from dataset.manifest.separated import parts
from dataset.manifest.table import EMPTY, LABELS, SPLITS, parse_manifest

log = logging.getLogger(__name__)


def assign_splits(
    rows: pd.DataFrame, val: float = 0.1, test: float = 0.1, seed: int = 0, known: dict[str, str] | None = None
) -> pd.DataFrame:
    """The rows with a split in place of each empty one, by patient, stratified by label.

    Args:
        val, test: shares of the patients, at least one each of three patients. Two are train and val, one is train.
        known: patient -> earlier split, which stays: a growing data set moves no patient from test to train.
    """
    known = {patient: split for patient, split in (known or {}).items() if split}
    rows = rows.copy()
    given = rows[rows["split"] != ""].groupby("patient")["split"].first().to_dict()
    assigned = {**known, **given}
    patients = _interleave(rows[~rows["patient"].isin(assigned)], seed)
    count = len(patients)
    if assigned:  # new patients: the same shares without a minimum
        n_val, n_test = round(count * val), round(count * test)
    else:
        n_val = max(1, round(count * val)) if count >= 2 and val > 0 else 0
        n_test = max(1, round(count * test)) if count >= 3 and test > 0 else 0
    for i, patient in enumerate(patients):
        assigned[patient] = "test" if i < n_test else "val" if i < n_test + n_val else "train"
    rows["split"] = rows["patient"].map(assigned)
    return rows


def assign_patients(rows: pd.DataFrame, val: Sequence[str], test: Sequence[str]) -> pd.DataFrame:
    """The rows with the named patients as validation and test, all others as training.

    UserError for a patient that no row has, or that is in both.
    """
    patients = rows["patient"].astype(str)
    for key, names in (("val_patients", val), ("test_patients", test)):
        if unknown := sorted(set(names) - set(patients)):
            shown = ", ".join(sorted(set(patients))[:10])
            raise UserError(f"dataset.{key}: no patient {unknown[0]}; choose from {shown}")
    if both := sorted(set(val) & set(test)):
        raise UserError(f"dataset.val_patients and dataset.test_patients both name {both[0]}; leave it in one")
    names = {**dict.fromkeys(val, "val"), **dict.fromkeys(test, "test")}
    return rows.assign(split=patients.map(lambda name: names.get(name, "train")))


def assign_folds(
    rows: pd.DataFrame, n_folds: int, fold: int, seed: int = 0, known: dict[str, int] | None = None
) -> pd.DataFrame:
    """The rows with folds; fold `fold` is the test split, the next one (cyclically) validation, the others train.

    Folds of the table stay, then earlier folds (`known`). A new patient gets the fold with the fewest patients of the
    same label, then the fewest in total. UserError for an invalid number of folds, `fold`, or fold in the table.
    """
    n_folds, fold = int(n_folds), int(fold)
    patients = rows["patient"].nunique()
    if not 3 <= n_folds <= patients:
        raise UserError(f"dataset.n_folds={n_folds}: give 3 (train, val, test) to {patients}, the number of patients")
    if not 0 <= fold < n_folds:
        raise UserError(f"dataset.fold={fold}: choose 0 to {n_folds - 1}")
    rows = rows.copy()
    given = rows[rows["fold"] >= 0].groupby("patient")["fold"].first().to_dict()
    if given and max(given.values()) >= n_folds:
        raise UserError(f"dataset.n_folds={n_folds}: the manifest has a fold {max(given.values())} (from 0)")
    assigned = {**{p: f for p, f in (known or {}).items() if 0 <= f < n_folds}, **given}
    labels = rows.groupby("patient")["label"].max()
    filled = np.zeros((n_folds, len(LABELS)), dtype=int)
    for patient in labels.index.intersection(list(assigned)):
        filled[assigned[patient], labels[patient] + 1] += 1
    for patient in _interleave(rows[~rows["patient"].isin(assigned)], seed):
        column = labels[patient] + 1
        assigned[patient] = min(range(n_folds), key=lambda f: (filled[f, column], filled[f].sum(), f))
        filled[assigned[patient], column] += 1
    rows["fold"] = rows["patient"].map(assigned).astype(int)
    held_out = {fold: "test", (fold + 1) % n_folds: "val"}
    rows["split"] = rows["fold"].map(lambda f: held_out.get(f, "train"))
    return rows


def with_parents(
    rows: pd.DataFrame,
    assign: Callable[..., pd.DataFrame],
    column: str,
    given: pd.Series,
    table: str | Path = "manifest.csv",
    known: dict[str, Any] | None = None,
) -> pd.DataFrame:
    """The rows with the splits that `assign` gives; a synthetic case is in the split of all its parents.

    Patients that synthetic cases connect are a family. A draw takes families in place of patients.

    Args:
        assign: of the rows that follow no other, such as `assign_splits`; a draw takes `known=` too.
        column: what it assigns, `split` or `fold`.
        given: whether the user has assigned a row; a synthetic case that is assigned stays where it is.
        table: the manifest, for the message.
        known: patient -> earlier value, for a draw; None if `assign` draws nothing.

    UserError for values of the user that differ in a family, and for earlier folds that do: images of a patient would
    be in several splits.
    """
    if (rows["parents"] == "").all():
        return assign(rows) if known is None else assign(rows, known=known)
    patients, made = rows["patient"], (rows["parents"] != "") & ~given
    relatives = [[name, *parts(parents)] for name, parents in zip(patients, rows["parents"], strict=True)]
    links = [(names[0], name) for names in relatives for name in names]
    families = pd.Series(merge_patients(list(patients), links), rows.index)
    alone = patients.groupby(families).transform("first")  # stands for a family whose parents have no row
    follows = made & (families.isin(families[~made]) | (patients != alone))
    rest = rows[~follows].assign(family=families)
    if known is None:
        rest = chosen = assign(rest)
    else:
        chosen = rest[given[~follows]]
    for family, own in chosen.drop_duplicates(["family", column]).groupby("family"):
        if len(own) > 1:
            case = rows.loc[(rows["parents"] != "") & (families == family), "id"].iloc[0]
            found = " and ".join(f"{name} in {value}" for name, value in own[["patient", column]].to_numpy())
            raise UserError(f"{table}: case {case} and its parents need one {column} ({found}); give them the same")
    if known is not None:
        earlier = _known_families(rest[~rest["family"].isin(chosen["family"])], known, column, table)
        names = rest.groupby("family")["patient"].min()
        drawn = rest.assign(patient=rest["family"].map(names))
        rest = assign(drawn, known={names[family]: value for family, value in earlier.items()})
    first = rest.drop_duplicates("family").set_index("family")
    return rows.assign(**{name: families.map(first[name]) for name in dict.fromkeys(("split", column))})


def _known_families(rows: pd.DataFrame, known: dict[str, Any], column: str, table: str | Path) -> dict[str, Any]:
    """The earlier value of each family of the rows, settled as `known_splits` and `known_folds` do."""
    found = {}
    for family, patients in rows.groupby("family")["patient"]:
        values = {known[name] for name in patients if known.get(name, EMPTY[column]) != EMPTY[column]}
        where = " and ".join(sorted(map(str, values)))
        if len(values) > 1 and column == "fold":
            raise UserError(
                f"{table}: a synthetic case joins patients of folds {where}, such as {min(patients)}, whose models "
                "trained on each other; remove the case, or all manifests of the cache, and train all folds again"
            )
        if len(values) > 1:
            log.warning("%s: a synthetic case joins patients of %s, such as %s", table, where, min(patients))
        if values:
            found[family] = min(values, key=SPLITS.index) if column == "split" else min(values)
    return found


def known_splits(rows: pd.DataFrame, earlier: str | Path) -> dict[str, str]:
    """The split in an earlier manifest of each patient without one, by its name and by its CTs.

    A patient that joins patients of several splits is in train before val before test: a model that trained on one of
    them, or was chosen by one, is then not tested on the other.
    """
    known = {}
    for patient, splits in _known(rows, earlier, "split").items():
        known[patient] = min(splits, key=SPLITS.index)
        if len(splits) > 1:
            where = " and ".join(sorted(splits))
            log.warning("%s: patient %s joins patients of %s; it is %s now", earlier, patient, where, known[patient])
    return known


def known_folds(rows: pd.DataFrame, earlier: str | Path) -> dict[str, int]:
    """The fold in an earlier manifest of each patient without one, by its name and by its CTs.

    UserError for a patient that joins patients of several folds: in each of them it would test a model that trained on
    the other.
    """
    known = _known(rows, earlier, "fold")
    for patient, folds in known.items():
        if len(folds) > 1:
            where = " and ".join(map(str, sorted(folds)))
            raise UserError(
                f"{earlier}: patient {patient} joins patients of folds {where}, whose models trained on each other; "
                "give it one fold in manifest.csv, or remove all manifests beside this one, and train all folds again"
            )
    return {patient: fold for patient, (fold,) in known.items()}


def patients_digest(rows: pd.DataFrame) -> dict[str, str]:
    """SHA-256 of the set of patients in each split."""
    names = {split: sorted(set(rows.loc[rows["split"] == split, "patient"].astype(str))) for split in SPLITS}
    return {split: hashlib.sha256("\n".join(patients).encode()).hexdigest() for split, patients in names.items()}


def _known(rows: pd.DataFrame, earlier: str | Path, column: str) -> dict[str, set]:
    """The values of `column` in an earlier manifest for each patient that has none in the rows.

    CTs count as well as names, since a scan names the patient of a folder by its only CT, but by the folder if it has
    several. A row that is in both manifests with its patient does not count for other patients with its CT.
    """
    of_patient, of_ct, of_folder = defaultdict(set), defaultdict(set), defaultdict(set)
    for patient, ct, value in parse_manifest(earlier)[["patient", "ct", column]].itertuples(index=False):
        if value != EMPTY[column]:
            of_patient[patient].add(value)
            of_ct[ct].add((patient, value))
            for folder in _folders(ct):
                of_folder[folder].add((patient, value))
    given = rows.loc[rows[column] != EMPTY[column], "patient"]
    found = defaultdict(set)
    for patient, ct in rows.loc[~rows["patient"].isin(given), ["patient", "ct"]].itertuples(index=False):
        same = of_ct[ct] | of_folder[ct] | set().union(*(of_ct[folder] for folder in _folders(ct)))
        own = {value for name, value in same if name == patient}
        found[patient] |= of_patient[patient] | (own or {value for _, value in same})
    return {patient: values for patient, values in found.items() if values}


def _folders(ct: str) -> list[str]:
    """The folder of a CT that is one series of several in it, `folder#key`; names may have a `#` as well."""
    return [ct[:i] for i, letter in enumerate(ct) if letter == "#"]


def _interleave(rows: pd.DataFrame, seed: int) -> list[str]:
    """The patients in an order in which every section has about the overall proportion of labels.

    The shuffled patients of a label get evenly spaced positions in [0, 1), by which all are sorted. A patient with
    several labels counts by the highest.
    """
    labels = rows.groupby("patient")["label"].max()
    placed = []
    for label in sorted(labels.unique()):
        patients = sorted(labels.index[labels == label])
        order = np.random.default_rng([int(seed), int(label) + 1]).permutation(len(patients))
        placed += [((rank + 0.5) / len(patients), patients[i]) for rank, i in enumerate(order)]
    return [patient for _, patient in sorted(placed)]
