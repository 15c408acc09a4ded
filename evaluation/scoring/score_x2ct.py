"""Scores volumes by the protocol of X2CT-GAN: its test cases at 128³ voxels, with its metrics."""

from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from common.errors import UserError
from dataset.imaging.hu_window import Window
from dataset.imaging.volume import Volume
from dataset.io.ct import read_volume
from dataset.io.paths import X2CT_FILE
from dataset.sources.folder_scan import discover
from evaluation.metrics.x2ct import OFFSET, RANGE, X2CT_METRICS
from evaluation.protocol import comparability
from evaluation.scoring.nifti_pairs import check_same_grid, volume_files
from evaluation.scoring.score_cases import score_cases
from evaluation.scoring.scored import Scored

SIDE = 128  # voxels
WINDOW = Window(-OFFSET, RANGE - OFFSET)
NAMES = tuple(metric.name for metric in X2CT_METRICS)


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
    cases = _Cases([root / ct for ct in rows["ct"]], [found[name] for name in ids])
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
    estimator = comparability.POINT if samples < 1 else comparability.estimator(samples)
    return Scored(described | {"estimator": estimator, "estimators": {method: estimator}}, scores, seed)


def at_side(volume: Volume) -> Volume:
    """A volume of 128³ voxels over the same extent, by linear interpolation between corner voxels (X2CT-GAN)."""
    size = np.array(volume.hu.shape)
    hu = volume.hu if (size == SIDE).all() else ndimage.zoom(volume.hu, SIDE / size, order=1)
    return Volume(hu, tuple(extent / SIDE for extent in volume.extent), volume.centre, volume.direction)


class _Cases:
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
