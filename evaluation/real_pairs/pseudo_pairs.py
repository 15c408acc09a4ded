"""Pseudo-pairs: DRRs at unknown poses, changed as films are, in the place of radiographs.

The protocol for real pairs runs on them before such data are at hand. They are no evidence for real films: both images
show the same breath, and the changes are drawn.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from common.errors import UserError
from dataset.imaging.coverage import fill
from dataset.imaging.drr_options import DrrSettings
from dataset.imaging.geometry import FRONTAL_VIEWS, unknown_pose
from dataset.imaging.volume import Volume
from dataset.io.ct import read_volume
from dataset.io.nifti import write_nifti
from dataset.manifest.table import FILM, make_rows, read_manifest, write_manifest
from dataset.phantom.render import LABELS, draw_for_xrays, render_phantom
from dataset.preparation.radiographs import write_radiograph
from dataset.xray.augmentation import XrayAugmentation
from dataset.xray.pose_perturbation import PROTOCOL, perturbed_poses
from evaluation.real_pairs.find_pairs import MANIFEST, of_patients, of_split
from evaluation.scoring.evaluation_pictures import check_file_names, file_name

FOLDER = "pseudo_pairs"  # of a result
PHANTOMS = "phantoms"  # in place of a folder
FIRST_PHANTOM = 60_000_000  # index in the population, beyond those of every split and calibration
PHANTOM_SIZE, PHANTOM_EXTENT = (128, 128, 128), (320.0, 256.0, 352.0)
SIDE = 256  # pixels of a DRR
STREAM = 4  # separates these random numbers from others of the same case
AP_SHARE = 0.5  # of the DRRs
EFFUSION_ML = 50.0  # of fluid that count as the finding `effusion` of a phantom
NOTE = f"pseudo-pairs: DRRs at unknown poses ({PROTOCOL}), changed at random as films are; no evidence for real films"

Scan = tuple[dict, Volume, str]
"""A row of the manifest, the volume that its X-rays show, and the path of its CT."""


def write_pseudo_pairs(scans: Callable[[Path], Iterator[Scan]], folder: Path, poses: int, seed: int = 0) -> None:
    """Writes `poses` DRRs of each scan as PNG and a manifest with them as films."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, (row, shown, ct) in enumerate(scans(folder)):
        for pose in range(poses):
            words = (seed, number, pose, STREAM)
            view = FRONTAL_VIEWS[int(np.random.default_rng(words).random() < AP_SHARE)]
            name = f"{row['id']}_pose_{pose + 1}"
            film = f"{file_name(name)}.png"
            write_radiograph(pseudo_film(shown, view, words).numpy(), folder / film)
            rows.append({**row, "id": name, "ct": ct, "xray": film, "view": view, "xray_source": FILM})
    write_manifest(make_rows(rows), folder / MANIFEST)


def pseudo_film(volume: Volume, view: str, words: tuple[int, ...]) -> torch.Tensor:
    """A DRR `(h, w)` in [0, 1] at a random pose, with random changes of films; NaN where it shows nothing."""
    drr = DrrSettings(view=view)
    xray = drr.render(volume, perturbed_poses(drr.poses(volume.extent), words), (SIDE, SIDE))
    return XrayAugmentation()(xray, unknown_pose(1, [view]), words)[0][0]


def scans_of(
    pairs: str | None,
    cases: int | None,
    patients: Sequence[str] | None = None,
    seed: int = 0,
    split: str | None = None,
) -> Callable[[Path], Iterator[Scan]]:
    """A function of a folder that yields the scans of a set with `manifest.csv`, or of `cases` phantoms.

    It writes the CTs of phantoms into the folder. UserError for no such set, for an unknown patient or split, and for
    patients or a split of phantoms.
    """
    if pairs == PHANTOMS:
        for key, value in {"split": split, "patients": patients}.items():
            if value is not None:
                raise UserError(f"{key}={value}: phantoms have no {key}; leave it out, or give a set as pairs")
        return lambda folder: _phantoms(folder, 16 if cases is None else cases, seed)
    path = Path(pairs or "").expanduser() / MANIFEST
    if not pairs or not path.is_file():
        raise UserError(f"pairs={pairs}: no manifest.csv in it; give a set of dataset/prepare.py, or {PHANTOMS}")
    rows = of_split(read_manifest(path), split)
    if rows.empty:
        raise UserError(f"{path}: no row in the split {split}; choose another split, or null for all")
    rows = of_patients(rows, patients, path).iloc[:cases]
    check_file_names(rows["id"])
    return lambda folder: _read(rows, path.parent)


def _read(rows: pd.DataFrame, root: Path) -> Iterator[Scan]:
    for row in rows.to_dict("records"):
        ct = str((root / row["ct"]).resolve())
        volume = read_volume(ct)
        volume.hu = fill(volume.hu)[0]
        yield row, volume, ct


def _phantoms(folder: Path, cases: int, seed: int) -> Iterator[Scan]:
    """Phantoms whose X-rays show no contrast medium, as a radiograph does not, from a finer drawing."""
    for index in range(FIRST_PHANTOM, FIRST_PHANTOM + cases):
        drawn = index, seed, PHANTOM_SIZE, PHANTOM_EXTENT
        phantom, shown, name = render_phantom(*drawn), draw_for_xrays(*drawn), f"phantom_{index}"
        write_nifti(
            folder / f"{name}.nii.gz", phantom.hu, phantom.spacing, description="phantom, a drawing of a chest"
        )
        fluid = (phantom.labels == LABELS["fluid"]).sum() * np.prod(phantom.spacing) / 1000.0
        findings = {"label": phantom.label, "effusion": int(fluid >= EFFUSION_ML)}
        yield {"id": name, "patient": name, **findings}, shown, f"{name}.nii.gz"
