"""Runs of one benchmark row and paired differences between rows."""

import numpy as np
import pandas as pd

from evaluation.metrics.catalogue import catalogue
from evaluation.statistics.patient_bootstrap import paired_difference
from evaluation.statistics.seeds_and_patients import over_seeds_and_patients
from evaluation.statistics.significance import sign_flip_p

Runs = dict[str, list[tuple[dict, pd.DataFrame]]]


def averaged(runs: list[tuple[dict, pd.DataFrame]]) -> pd.DataFrame:
    """Mean over the training seeds of the scores of their common cases, and `patient`."""
    index = runs[0][1].index
    for _, run in runs[1:]:
        index = index.intersection(run.index)
    columns = [c for c in runs[0][1].columns if c in catalogue() and all(c in run.columns for _, run in runs)]
    table = sum(run.loc[index, columns] for _, run in runs) / len(runs)
    return table.assign(patient=runs[0][1].loc[index, "patient"])


def difference(ones: list, others: list, metric: str, margin: float = 0.0) -> dict | None:
    """Mean of `ones - others` on common cases, averaged over training seeds; `p` of a difference of `margin`.

    With two common seeds or more the interval and `p` are over seeds and patients. With one seed the interval is over
    patients, for this one training, and `p` is None: nothing follows for another training. Rows without training have
    both over patients. Uses the common seeds if there are any, since a seed of one row alone only adds variance. None
    without common cases. `by_seed` holds the differences of the common seeds, in their order.
    """
    ones, others = in_common(ones, others)
    first, second = averaged(ones), averaged(others)
    index = first.index.intersection(second.index)
    if not len(index) or metric not in first or metric not in second:
        return None
    patients = first.loc[index, "patient"].to_numpy(dtype=str)
    ours, theirs = (table.loc[index, metric].to_numpy() for table in (first, second))
    estimate = paired_difference(ours, theirs, patients)
    if estimate.mean is None:
        return None
    trained = any(facts["seed"] is not None for facts, _ in (*ones, *others))
    p = None if trained else sign_flip_p(ours - theirs - margin, patients)
    found = estimate.as_dict() | {"p": p, "cases": len(index)}
    rows = [a.loc[index, metric] - b.loc[index, metric] for a, b in by_seed(ones, others)]
    each = [float(row.mean()) for row in rows]
    if len(each) > 1:
        found |= {"by_seed": [round(v, 4) for v in each], "seed_std": round(float(np.std(each, ddof=1)), 4)}
        owned = pd.DataFrame([row.groupby(patients).mean() for row in rows]).dropna(axis=1).to_numpy()
        if owned.shape[1] > 1:
            both, found["p"] = over_seeds_and_patients(owned, margin)
            found |= both.as_dict()
    return found


def in_common(ones: list, others: list) -> tuple[list, list]:
    """Runs of the common training seeds; all runs if a row has no seeds or none in common."""
    seeds = {facts["seed"] for facts, _ in ones} & {facts["seed"] for facts, _ in others} - {None}
    if not seeds:
        return ones, others
    return tuple([run for run in runs if run[0]["seed"] in seeds] for runs in (ones, others))


def by_seed(ones: list, others: list) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """Scores of both for each common training seed; a row without a seed is paired with every seed."""
    first, second = ({facts["seed"]: table for facts, table in runs} for runs in (ones, others))
    seeds = sorted({seed for seed in (*first, *second) if seed is not None})
    pairs = [tuple(runs.get(None, runs.get(seed)) for runs in (first, second)) for seed in seeds]
    return [pair for pair in pairs if all(table is not None for table in pair)]
