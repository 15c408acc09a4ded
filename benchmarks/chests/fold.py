"""One fold: the cases of the left-out patient, morphs of its parents that nobody trained on, and scores on both."""

from dataclasses import dataclass, field

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from evaluation.metrics.crps import ANTITHETIC, SAMPLES
from evaluation.scoring.frozen_protocol import FrozenProtocol
from evaluation.scoring.score_cases import TRUTH, score_cases

PATIENT, MORPHS = "patient", "morphs of the parents"  # populations of the scores


@dataclass
class Predicted:
    """Volumes of n cases in HU by method; `samples` `(n, s, D, H, W)` where a method has them."""

    volumes: dict[str, Float[Tensor, "n d h w"]]
    samples: dict[str, Float[Tensor, "n s d h w"]] = field(default_factory=dict)
    antithetic: bool = False


@dataclass(frozen=True)
class Cases:
    """Cases with ids `<patient>_<pose>`; `population` is `PATIENT` or `MORPHS`."""

    population: str
    ids: list[str]
    patients: list[str]
    poses: list[str]
    cases: list[dict]


def patient_cases(protocol: FrozenProtocol, patient: str, size: int) -> Cases:
    """The fixed X-rays of a patient."""
    poses = protocol.poses
    cases = [protocol.case(patient, pose, size) for pose in poses]
    return Cases(PATIENT, [f"{patient}_{pose}" for pose in poses], [patient] * len(poses), poses, cases)


def with_xrays_of(cases: Cases, protocol: FrozenProtocol, patient: str) -> Cases:
    """The cases with the X-rays of another patient, pose by pose."""
    others = [
        {**case, "xray": protocol.xray(patient, pose)[None], "pose": protocol.pose(patient, pose)}
        for case, pose in zip(cases.cases, cases.poses, strict=True)
    ]
    return Cases(cases.population, cases.ids, cases.patients, cases.poses, others)


def morph_cases(dataset, count: int) -> Cases:
    """The first `count` morphs of a `CaseDataset` of patients and their morphs."""
    chosen = (dataset.rows["parents"].fillna("") != "").to_numpy().nonzero()[0][:count].tolist()
    ids = [str(name) for name in dataset.rows["id"].iloc[chosen]]
    return Cases(MORPHS, ids, ids, ["pa"] * len(ids), [dataset.case(i) for i in chosen])


def score(cases: Cases, predicted: Predicted, protocol: FrozenProtocol) -> pd.DataFrame:
    """Columns `population, id, patient, pose, method` and the metrics of the protocol."""

    class WithSamples:
        @staticmethod
        def case(index: int) -> dict:
            return cases.cases[index] | {SAMPLES: {name: drawn[index] for name, drawn in predicted.samples.items()}}

    def volumes(index: int) -> dict[str, Tensor]:
        return {name: of[index] for name, of in predicted.volumes.items()}

    scores = score_cases(
        WithSamples,
        volumes,
        protocol.window,
        cases.patients,
        cases.ids,
        metrics=protocol.metrics,
        tools={ANTITHETIC: predicted.antithetic},
    )
    poses = dict(zip(cases.ids, cases.poses, strict=True))
    scores = scores[scores.method != TRUTH]
    return scores.assign(population=cases.population, pose=scores["id"].map(poses))


def stacked(cases: Cases) -> Float[Tensor, "n v 1 h w"]:
    """X-rays of the cases."""
    return torch.stack([case["xray"].float()[:, None] for case in cases.cases])
