"""Data of the lung network: rendered DRRs, changed into films anew in each batch."""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from dataset.cases.case_dataset import CaseDataset
from dataset.cases.store import read_case
from dataset.datamodule import CTDataModule
from dataset.imaging.coverage import NOT_SCANNED_HU
from dataset.imaging.hu_window import AIR_HU
from dataset.imaging.lung_network import SIZE
from dataset.phantom.render import render_phantom
from dataset.xray.film_imitation import FilmImitation
from train.lungs.drrs import Load, RenderedDrrs

PHANTOM_SIZE, PHANTOM_SEED = (96, 84, 104), 7
STREAM = 3  # separates these random numbers from others of the same seed
VALIDATION = 64  # DRRs
TURNED = 0.07  # share of films that are inverted or turned, and show no lungs then


class FilmLikeDrrs(Dataset):
    """Samples `{"xray": (1, s, s) in [0, 1], "depth": (4, s, s) mm of lung as in `CHANNELS`}`.

    A key `(index, step)` changes DRR `index` at random, with a generator seeded by `(seed, step, index)`; a key
    `index` always in the same way.
    """

    def __init__(self, drrs: RenderedDrrs, film: FilmImitation, seed: int):
        self.drrs, self.film, self.seed = drrs, film, seed

    def __len__(self) -> int:
        return len(self.drrs)

    def __getitem__(self, key) -> dict[str, torch.Tensor]:
        index, step = key if isinstance(key, tuple) else (key, 0)
        rng = np.random.default_rng((self.seed, STREAM, step, index))
        attenuation, bone, *depth = self.drrs[index]
        xray, depth = self.film(attenuation, bone, torch.stack(depth), rng)
        if rng.random() < TURNED:
            quarters = int(rng.integers(4))
            xray = (xray.rot90(quarters) if quarters else 1.0 - xray).contiguous()
            depth = torch.zeros_like(depth)
        return {"xray": xray[None], "depth": depth}


def lung_data(
    data: CTDataModule, film: FilmImitation, count: int, phantoms: float, seed: int, workers: int | None
) -> None:
    """Replaces the cases of a data module by DRRs of them, `phantoms` of them by phantoms; renders what is missing."""
    folder = Path(data.manifest_path).parent / "lung_drrs"
    for split, number in (("train", count), ("val", min(VALIDATION, count))):
        cases, rng = getattr(data, split), np.random.default_rng((seed, STREAM, len(split)))
        drrs = RenderedDrrs(_volumes(cases, number, phantoms, rng), SIZE, seed, folder, workers)
        setattr(data, split, FilmLikeDrrs(drrs, film, seed))


def _volumes(cases: CaseDataset, count: int, phantoms: float, rng: np.random.Generator) -> list[tuple[str, Load]]:
    """Name and loader of the volume of each DRR."""
    volumes = []
    for _ in range(count):
        index = int(rng.integers(2**20))
        if rng.random() < phantoms:
            volumes.append((f"phantom {PHANTOM_SEED} {index}", partial(_phantom, index)))
        else:
            path = cases.paths[index % len(cases.paths)]
            volumes.append((path.stem, partial(_case, path)))
    return volumes


def _phantom(index: int) -> tuple[np.ndarray, tuple[float, float, float]]:
    phantom = render_phantom(index, PHANTOM_SEED, PHANTOM_SIZE)
    return phantom.hu_plain, phantom.spacing


def _case(path: Path) -> tuple[np.ndarray, tuple[float, float, float]]:
    case = read_case(path)
    hu = case["ct"].numpy()
    return np.where(hu == NOT_SCANNED_HU, AIR_HU, hu), tuple(case["spacing"].tolist())
