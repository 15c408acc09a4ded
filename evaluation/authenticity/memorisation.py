"""The authenticity test: whether generated volumes are closer to training cases than unseen patients are.

Four groups have a ratio for each volume (`evaluation.authenticity.nearest_training`): `generated`, one sample for the
X-ray of each unseen patient; `unseen`, the true volumes of these patients, the null; and two controls through the
latent encoder of the generator, `unseen, decoded` and `copies, decoded`, training cases as the generator would draw
them. A volume counts as a copy if its ratio is below that of every unseen true volume.
"""

from math import comb

import numpy as np
import pandas as pd
import torch

from evaluation.authenticity.nearest_training import TrainingCases
from evaluation.generation.model_inputs import ModelInputs
from evaluation.generation.sample import Sampling, sample_volumes
from evaluation.statistics.binary_metrics import wilson
from evaluation.statistics.patient_bootstrap import paired_difference
from evaluation.statistics.significance import ALPHA, holm, sign_flip_p

GENERATED, UNSEEN, DECODED, COPIES = GROUPS = ("generated", "unseen", "unseen, decoded", "copies, decoded")
FEWEST = 6  # patients; with fewer no sign-flip p value is below 0.05


def measure_ratios(pipeline, train, test, sampling: Sampling) -> pd.DataFrame:
    """`group, id, patient, nearest, difference_hu, ratio` of every volume.

    `train` and `test` are `CaseDataset`s of different patients; `copies, decoded` are as many training cases as there
    are test cases, evenly spaced.
    """
    window = pipeline.window

    def clipped(cases, index: int) -> torch.Tensor:
        return cases.case(index)["ct"].float().clamp(window.low, window.high)

    known = TrainingCases((clipped(train, i) for i in range(len(train))), train.rows["patient"].astype(str).tolist())
    rows = []

    def add(group: str, cases, index: int, volume: torch.Tensor) -> None:
        found, row = known.nearest(volume), cases.rows.iloc[index]
        names = {"id": str(row["id"]), "patient": str(row["patient"])}
        nearest = {"nearest": str(train.rows["id"].iloc[found.case]), "difference_hu": found.difference}
        rows.append({"group": group, **names, **nearest, "ratio": found.ratio})

    inputs = ModelInputs.of_cases((test.case(i) for i in range(len(test))), pipeline)
    for part, volumes in sample_volumes(pipeline, inputs, test.rows["id"].astype(str).tolist(), sampling):
        for index, samples in zip(part, volumes, strict=True):
            add(GENERATED, test, index, samples[0])
    for index in range(len(test)):
        volume = clipped(test, index)
        add(UNSEEN, test, index, volume)
        add(DECODED, test, index, _decoded(pipeline, volume))
    for index in np.unique(np.linspace(0, len(train) - 1, len(test)).round().astype(int)).tolist():
        add(COPIES, train, index, _decoded(pipeline, clipped(train, index)))
    return pd.DataFrame(rows)


@torch.no_grad()
def _decoded(pipeline, volume: torch.Tensor) -> torch.Tensor:
    """A volume in HU as the latent encoder of the pipeline reproduces it."""
    encoder = pipeline.latent_encoder
    windowed = pipeline.window.normalise(volume)[None, None].to(encoder.device, encoder.dtype)
    return pipeline.decode(encoder.encode(windowed))[0, 0].float().cpu()


def authenticity(ratios: pd.DataFrame, seed: int = 0) -> dict:
    """Summary and verdict of `measure_ratios` as plain JSON.

    Two one-sided tests of `generated` against `unseen`, Holm-adjusted: sign flips of the paired difference of the log
    ratios, for a generator whose volumes are all too close to the training, and the number of copies, for one that
    repeats some cases. Of k copies among m generated and n unseen volumes p = C(m+n-k, n) / C(m+n, n), the probability
    that the k smallest ratios are all of the first group if both have one distribution.
    """
    parts = {name: ratios[ratios.group == name].reset_index(drop=True) for name in GROUPS}
    limit = float(parts[UNSEEN].ratio.min())
    groups = {name: _summary(part, limit) for name, part in parts.items() if len(part)}
    generated, unseen = parts[GENERATED], parts[UNSEEN]
    logs, patients = [np.log(part.ratio.to_numpy()) for part in (generated, unseen)], generated.patient.to_numpy()
    difference = paired_difference(*logs, patients, seed=seed)
    p = sign_flip_p(logs[0] - logs[1], patients, seed=seed)
    m, n, copies = len(generated), len(unseen), groups[GENERATED]["copies"]
    closer = None if p is None else p / 2 if difference.mean < 0 else 1.0 - p / 2
    tests = holm({"closer": closer, "copies": comb(m + n - copies, n) / comb(m + n, n)})
    enough = len(set(patients)) >= FEWEST
    shown = enough and min(value for value in tests.values() if value is not None) <= ALPHA
    return {
        "limit": limit,
        "groups": groups,
        "log_ratio_difference": difference.as_dict(),
        "p": tests,
        "verdict": "memorised" if shown else "not shown" if enough else "too few patients",
    }


def _summary(part: pd.DataFrame, limit: float) -> dict:
    copies, count = int((part.ratio < limit).sum()), len(part)
    low, high = wilson(copies, count)
    return {
        "volumes": count,
        "ratio": {"median": float(part.ratio.median()), "smallest": float(part.ratio.min())},
        "difference_hu": {"median": float(part.difference_hu.median())},
        "copies": copies,
        "share": {"mean": copies / count, "low": low, "high": high},
    }
