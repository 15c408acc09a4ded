"""Pairs of true and predicted CT files, matched by name, on the same grid."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from common.errors import UserError
from common.files import visible
from dataset.imaging.coverage import fill
from dataset.imaging.volume import Volume
from dataset.io.ct import read_volume
from dataset.io.paths import volume_name
from dataset.io.volume_files import VOLUME_ENDINGS

SAME_MM = 0.01  # tolerance of a spacing
SAME_PLACE_MM = 0.5  # tolerance of the positions of the first and the last voxel


def match(truth: str | Path | None, prediction: str | Path | None, suffix: str = "") -> dict[str, tuple[Path, Path]]:
    """`{id: (true file, predicted file)}` of two folders of volume files; the predicted name is `<id><suffix>`.

    Raises UserError for a missing or empty folder, a case without its partner and a repeated id.
    """
    true, predicted = volume_files("truth", truth), volume_files("prediction", prediction)
    wanted = {name: f"{name}{suffix}" for name in true}
    missing = [name for name, partner in wanted.items() if partner not in predicted]
    if missing:
        raise UserError(
            f"prediction={prediction}: {len(missing)} of {len(true)} cases are missing ({missing[0]}: no "
            f"{wanted[missing[0]]}.nii.gz); predict every case, or name the ending that was added with suffix="
        )
    extra = sorted(set(predicted) - set(wanted.values()))
    if extra:
        raise UserError(f"prediction={prediction}: {extra[0]} has no truth in {truth}; score the same cases in both")
    return {name: (true[name], predicted[partner]) for name, partner in wanted.items()}


def read_pair(true: Path, predicted: Path, clipped_at: float | None = None) -> tuple[dict, Float[Tensor, "d h w"]]:
    """A case for the metrics, without X-ray, and the prediction in HU; no volume is resampled.

    `clipped_at` is the lower end of the window of the metrics, to which a prediction may be clipped.

    Voxels of the truth that are marked as not scanned (`dataset.imaging.coverage`) are left out of the metrics.

    Raises UserError for another size, spacing or position, and for values that are not HU.
    """
    truth, volume = read_volume(true), read_volume(predicted, clipped_at)
    check_same_grid(true, predicted, truth, volume)
    hu, scanned = fill(truth.hu)
    case = {
        "ct": torch.from_numpy(hu),
        "scanned": torch.from_numpy(scanned),
        "spacing": torch.tensor(truth.spacing),
        "centre": torch.tensor(truth.centre),
        "xray": torch.zeros(0, 1, 1),
        "pose": torch.zeros(0, 9),
    }
    return case, torch.from_numpy(fill(volume.hu)[0])


def check_same_grid(true: Path, predicted: Path, truth: Volume, volume: Volume) -> None:
    """Raises UserError if size, spacing or place of a predicted volume differs from that of the truth."""
    remedy = "resample the prediction onto the truth yourself, and report the method"
    if truth.hu.shape != volume.hu.shape:
        raise UserError(f"{predicted}: {volume.hu.shape} voxels, {true}: {truth.hu.shape} (D, H, W); {remedy}")
    if np.abs(np.subtract(truth.spacing, volume.spacing)).max() > SAME_MM:
        raise UserError(f"{predicted}: spacing {_mm(volume.spacing)}, {true}: {_mm(truth.spacing)}; {remedy}")
    corners = np.array([(0, 0, 0, 1), (*np.subtract(truth.hu.shape[::-1], 1), 1)]).T  # (W, H, D), first and last voxel
    places = [(affine @ corners)[:3].T for affine in (volume.affine, truth.affine)]
    if np.abs(places[0] - places[1]).max() > SAME_PLACE_MM:
        shown = [f"{_mm(first.round(1))} to {_mm(last.round(1))}" for first, last in places]
        raise UserError(f"{predicted}: voxels from {shown[0]} (RAS), {true}: from {shown[1]}; {remedy}")


def _mm(values) -> str:
    return "[" + ", ".join(f"{v:g}" for v in values) + "] mm"


def volume_files(key: str, folder: str | Path | None) -> dict[str, Path]:
    """The volume files of a folder by name; UserError for a missing or empty folder and for a repeated name."""
    if not folder or not Path(folder).is_dir():
        raise UserError(f"{key}={folder}: no such folder; give one with a file for each case")
    found: dict[str, Path] = {}
    for file in visible(file for file in Path(folder).iterdir() if file.name.lower().endswith(VOLUME_ENDINGS)):
        name = volume_name(file)
        if name in found:
            raise UserError(f"{file} and {found[name]} have the same id {name}; keep one of them")
        found[name] = file
    if not found:
        raise UserError(
            f"{key}={folder}: no volume file in it; give a folder with a .nii.gz, .mha or .nrrd for each case"
        )
    return found
