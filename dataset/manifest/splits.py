"""Who trains and who judges: splits and folds by patient, stratified by label, fixed by a seed."""

import hashlib

import numpy as np
import pandas as pd

from common.errors import UserError
from dataset.manifest.table import LABELS, SPLITS


def assign_splits(
    rows: pd.DataFrame, val: float = 0.1, test: float = 0.1, seed: int = 0, known: dict[str, str] | None = None
) -> pd.DataFrame:
    """Fill empty splits by patient, stratified by label, fixed by `seed`; a split that is given stays.

    `val` and `test` are shares of the patients. From three patients on each of the two has at least one; two patients
    are train and val; one is train. `known` maps patients to the split they had before: they keep it, so that
    a folder that grows never moves a patient from test to train.
    """
    known = {patient: split for patient, split in (known or {}).items() if split}
    rows = rows.copy()
    given = rows[rows["split"] != ""].groupby("patient")["split"].first().to_dict()
    settled = {**known, **given}
    patients = _spread(rows[~rows["patient"].isin(settled)], seed)
    count = len(patients)
    if settled:  # newcomers join at the same shares, without the guarantee of one each
        n_val, n_test = round(count * val), round(count * test)
    else:
        n_val = max(1, round(count * val)) if count >= 2 and val > 0 else 0
        n_test = max(1, round(count * test)) if count >= 3 and test > 0 else 0
    for i, patient in enumerate(patients):
        settled[patient] = "test" if i < n_test else "val" if i < n_test + n_val else "train"
    rows["split"] = rows["patient"].map(settled)
    return rows


def assign_folds(
    rows: pd.DataFrame, n_folds: int, fold: int, seed: int = 0, known: dict[str, int] | None = None
) -> pd.DataFrame:
    """Cross-validation: fold `fold` is the test, the next one (cyclically) the validation, the others train.

    A fold that the table gives stays; other patients keep the fold they had before (`known`). Each newcomer goes to
    the fold with the fewest of the same label, then the fewest in all. The column `split` is replaced.

    Raises:
        UserError: fewer than 3 folds or more than patients, a fold that does not exist, or a table whose own folds
            go beyond `n_folds`.
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
    settled = {**{p: f for p, f in (known or {}).items() if 0 <= f < n_folds}, **given}
    labels = rows.groupby("patient")["label"].max()
    filled = np.zeros((n_folds, len(LABELS)), dtype=int)
    for patient in labels.index.intersection(list(settled)):
        filled[settled[patient], labels[patient] + 1] += 1
    for patient in _spread(rows[~rows["patient"].isin(settled)], seed):
        column = labels[patient] + 1
        settled[patient] = min(range(n_folds), key=lambda f: (filled[f, column], filled[f].sum(), f))
        filled[settled[patient], column] += 1
    rows["fold"] = rows["patient"].map(settled).astype(int)
    judged = {fold: "test", (fold + 1) % n_folds: "val"}
    rows["split"] = rows["fold"].map(lambda f: judged.get(f, "train"))
    return rows


def patients_digest(rows: pd.DataFrame) -> dict[str, str]:
    """SHA-256 of the set of patients in each split: equal exactly where the same patients lie in it."""
    found = {}
    for split in SPLITS:
        names = sorted({str(patient) for patient in rows.loc[rows["split"] == split, "patient"]})
        found[split] = hashlib.sha256("\n".join(names).encode()).hexdigest()
    return found


def _spread(rows: pd.DataFrame, seed: int) -> list[str]:
    """The patients in an order in which every stretch holds the labels in about their overall proportion.

    Within each label they are shuffled and spread evenly over [0, 1), then sorted by that place. A patient with
    several labels counts by the highest.
    """
    labels = rows.groupby("patient")["label"].max()
    placed = []
    for label in sorted(labels.unique()):
        patients = sorted(labels.index[labels == label])
        order = np.random.default_rng([int(seed), int(label) + 1]).permutation(len(patients))
        placed += [((rank + 0.5) / len(patients), patients[i]) for rank, i in enumerate(order)]
    return [patient for _, patient in sorted(placed)]
