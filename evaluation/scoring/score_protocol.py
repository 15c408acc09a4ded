"""Scores a folder of volumes by a frozen protocol: `<patient>_<pose>.nii.gz` for every patient and pose."""

from pathlib import Path

import torch
from torch import Tensor

from common.errors import UserError
from dataset.imaging.coverage import fill
from dataset.io.ct import read_volume
from evaluation.protocol import comparability
from evaluation.scoring.frozen_protocol import FrozenProtocol, grid_of
from evaluation.scoring.nifti_pairs import check_same_grid, volume_files
from evaluation.scoring.patient_table import by_patient
from evaluation.scoring.score_cases import TRUTH, score_cases
from evaluation.scoring.scored import Scored


def score_protocol(
    protocol: FrozenProtocol,
    predictions: str | Path | None,
    method: str = "model",
    samples: int = 0,
    stage: str = "all",
    seed: int = 0,
) -> Scored:
    """Scores every volume, with a table by patient.

    Raises UserError for a changed truth, a missing or surplus prediction, one on another grid, and one that does not
    hold HU.

    Args:
        predictions: folder with a NIfTI file in HU for each X-ray, on the grid of the truth at one of its sizes.
        samples: averaged in each prediction; 0 for a deterministic method.
        stage: `selection`, `held_out` or `all`.
    """
    found = volume_files("predictions", predictions)
    wanted = [(patient, pose) for patient in protocol.stages(stage) for pose in protocol.poses]
    ids = [f"{patient}_{pose}" for patient, pose in wanted]
    if missing := [name for name in ids if name not in found]:
        raise UserError(
            f"predictions={predictions}: {len(missing)} of {len(ids)} volumes are missing ({missing[0]}.nii.gz); "
            f"predict every X-ray of protocol {protocol.name} in {protocol.folder}, or score one stage"
        )
    everything = {f"{patient}_{pose}" for patient in protocol.patients for pose in protocol.poses}
    if extra := sorted(set(found) - everything):
        raise UserError(f"predictions={predictions}: {extra[0]} is no X-ray of protocol {protocol.name}; remove it")
    size = read_volume(found[ids[0]]).hu.shape[0]
    if size not in protocol.sizes:
        raise UserError(
            f"{found[ids[0]]}: {size} slices; protocol {protocol.name} has {protocol.sizes} voxels per side"
        )
    cases = _Predictions(protocol, wanted, [found[name] for name in ids], size)
    owners = [patient for patient, _ in wanted]
    scores = score_cases(
        cases, lambda i: {method: cases.prediction(i)}, protocol.window, owners, ids, metrics=protocol.metrics
    )
    estimator = comparability.POINT if samples < 1 else comparability.estimator(samples)
    described = comparability.describe(
        window=protocol.window,
        volume_size=(size, size, size),
        spacing=None,
        samples=samples,
        split=stage,
        patients=owners,
        data={"dataset": f"protocol {protocol.name}", "version": protocol.content["version"]},
        data_sha256=comparability.hash_cases((cases.case(i) for i in range(len(ids))), ids),
        metrics=protocol.metrics,
        seed=seed,
    )
    table = by_patient(scores[scores.method != TRUTH], protocol.metrics)
    caption = f"Protocol {protocol.name}, {stage} patients, {size}³ voxels, {len(protocol.poses)} X-rays a patient."
    described |= {"estimator": estimator, "estimators": {method: estimator}}
    return Scored(described, scores, seed, table, caption)


class _Predictions:
    """The cases of a protocol and the volumes of a folder."""

    def __init__(self, protocol: FrozenProtocol, wanted: list[tuple[str, str]], files: list[Path], size: int):
        self._protocol, self._wanted, self._files, self._size = protocol, wanted, files, size

    def case(self, index: int) -> dict:
        return self._protocol.case(*self._wanted[index], self._size)

    def prediction(self, index: int) -> Tensor:
        volume, (patient, _) = read_volume(self._files[index]), self._wanted[index]
        truth = grid_of(self._protocol.truth(patient, self._size))
        check_same_grid(self._protocol.file(patient), self._files[index], truth, volume)
        return torch.from_numpy(fill(volume.hu)[0])
