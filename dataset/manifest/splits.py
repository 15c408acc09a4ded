"""Splits and cross-validation folds by patient, stratified by label, determined by a seed."""

import hashlib
from collections.abc import Sequence

import numpy as np
import pandas as pd

from common.errors import UserError
from dataset.manifest.table import LABELS, SPLITS


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


def patients_digest(rows: pd.DataFrame) -> dict[str, str]:
    """SHA-256 of the set of patients in each split."""
    names = {split: sorted(set(rows.loc[rows["split"] == split, "patient"].astype(str))) for split in SPLITS}
    return {split: hashlib.sha256("\n".join(patients).encode()).hexdigest() for split, patients in names.items()}


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
