"""Scores a folder of volumes by a protocol: a frozen one, or that of X2CT-GAN.

Of a frozen one, `<patient>_<pose>.nii.gz` for every patient and pose; of X2CT-GAN, `<case>.nii.gz` for its test cases
at 128³ voxels, with its metrics.
"""

from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from common.errors import UserError
from dataset.imaging.coverage import fill
from dataset.imaging.hu_window import Window
from dataset.imaging.volume import Volume
from dataset.io.ct import read_volume
from dataset.io.paths import X2CT_FILE
from dataset.sources.folder_scan import discover
from evaluation.metrics.x2ct import OFFSET, RANGE, X2CT_METRICS
from evaluation.protocol import comparability
from evaluation.scoring.frozen_protocol import FrozenProtocol, grid_of
from evaluation.scoring.nifti_pairs import check_same_grid, volume_files
from evaluation.scoring.patient_table import by_patient
from evaluation.scoring.score_cases import TRUTH, score_cases
from evaluation.scoring.scored import Scored

SIDE = 128  # voxels
WINDOW = Window(-OFFSET, RANGE - OFFSET)
NAMES = tuple(metric.name for metric in X2CT_METRICS)


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
    described["estimators"] = {method: described["estimator"]}
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


def score_x2ct(
    root: str | Path | None, predictions: str | Path | None, method: str = "model", samples: int = 0, seed: int = 0
) -> Scored:
    """Scores the predicted volume of every test case.

    Raises UserError for a folder without test list, a missing or surplus prediction, and one on another grid.

    Args:
        root: folder of the data set, as `dataset.root_dir` of `dataset=x2ct`.
        predictions: folder with `<case>.nii.gz` (or another volume file) in HU, 128³ voxels over the truth's extent.
        samples: averaged in each prediction; 0 for a deterministic method.
    """
    if not root or not Path(root).expanduser().is_dir():
        raise UserError(f"truth={root}: no such folder; give the one with {X2CT_FILE} of each case, and test.txt")
    root = Path(root).expanduser()
    rows = discover(root)
    rows = rows[(rows["split"] == "test") & rows["ct"].str.endswith(X2CT_FILE)].sort_values("id")
    if rows.empty:
        raise UserError(f"truth={root}: no test case of X2CT-GAN; copy its test.txt and train.txt there")
    found, ids = volume_files("predictions", predictions), list(rows["id"])
    if missing := [name for name in ids if name not in found]:
        raise UserError(
            f"predictions={predictions}: {len(missing)} of {len(ids)} test cases are missing ({missing[0]}.nii.gz); "
            "predict every case of test.txt"
        )
    if extra := sorted(set(found) - set(ids)):
        raise UserError(f"predictions={predictions}: {extra[0]} is no test case in {root}; remove it")
    cases = _X2ctCases([root / ct for ct in rows["ct"]], [found[name] for name in ids])
    owners = list(rows["patient"])
    scores = score_cases(cases, lambda i: {method: cases.prediction(i)}, WINDOW, owners, ids, metrics=NAMES)
    described = comparability.describe(
        window=WINDOW,
        volume_size=(SIDE,) * 3,
        spacing=None,
        samples=samples,
        split="test",
        patients=owners,
        data={"dataset": "protocol x2ct", "version": None},
        data_sha256=comparability.hash_cases((cases.case(i) for i in range(len(ids))), ids),
        metrics=NAMES,
        seed=seed,
    )
    return Scored(described | {"estimators": {method: described["estimator"]}}, scores, seed)


def at_side(volume: Volume) -> Volume:
    """A volume of 128³ voxels over the same extent, by linear interpolation between corner voxels (X2CT-GAN)."""
    size = np.array(volume.hu.shape)
    hu = volume.hu if (size == SIDE).all() else ndimage.zoom(volume.hu, SIDE / size, order=1)
    return Volume(hu, tuple(extent / SIDE for extent in volume.extent), volume.centre, volume.direction)


class _X2ctCases:
    """The truths at 128³ and the predictions of them."""

    def __init__(self, truths: list[Path], predictions: list[Path]):
        self._truths, self._predictions = truths, predictions

    def case(self, index: int) -> dict:
        volume = at_side(read_volume(self._truths[index]))
        return {
            "ct": torch.from_numpy(volume.hu),
            "spacing": torch.tensor(volume.spacing),
            "centre": torch.tensor(volume.centre),
            "xray": torch.zeros(0, 1, 1),
            "pose": torch.zeros(0, 9),
        }

    def prediction(self, index: int) -> Tensor:
        truth, volume = at_side(read_volume(self._truths[index])), read_volume(self._predictions[index])
        check_same_grid(self._truths[index], self._predictions[index], truth, volume)
        return torch.from_numpy(volume.hu)
