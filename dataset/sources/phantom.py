"""Thorax phantoms with their DRR as a source of cases, rendered when they are first needed."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor

from common.checked_tensors import save_tensors
from common.errors import UserError
from common.files import atomic_path
from dataset.cases.case import Case, case_key, pack_case
from dataset.cases.source import positive
from dataset.imaging.drr import render_xray
from dataset.imaging.drr_options import DrrSettings
from dataset.imaging.geometry import unknown_pose
from dataset.manifest.table import make_rows
from dataset.phantom.render import POPULATION_VERSION, render_phantom
from dataset.sources.settings import Geometry, Xrays
from dataset.xray.options import XrayOptions
from dataset.xray.pose_perturbation import describe, perturbed_poses

# Index ranges of the splits do not overlap: more training phantoms never include a test phantom.
FIRST_INDEX = {"train": 0, "val": 10_000_000, "test": 20_000_000}
VIEW_NAMES = ("PA", "lateral")  # first views of `DrrSettings.poses`, named where the pose is unknown


@dataclass(frozen=True)
class Population:
    """A population of phantoms and the number drawn from it.

    Attributes:
        train, val, test: number of phantoms in each split.
        seed: of the population.
        extent: mm `[D, H, W]`, edge to edge.
        pe_share: share of phantoms with pulmonary emboli, 0 to 1.
        sign_rate: share of those whose X-ray shows a sign of them, 0 to 1.
        test_from: index of the first test phantom; another index draws other cases, for example for calibration.
    """

    train: int = 400
    val: int = 16
    test: int = 32
    seed: int = 0
    extent: tuple[float, float, float] = (320.0, 256.0, 352.0)
    pe_share: float = 0.5
    sign_rate: float = 0.6
    test_from: int = FIRST_INDEX["test"]

    def __post_init__(self):
        object.__setattr__(self, "extent", positive("dataset.extent", self.extent, 3, float))
        if self.test_from < FIRST_INDEX["test"]:
            raise UserError(f"dataset.test_from={self.test_from}: give {FIRST_INDEX['test']} or more")


class PhantomSource:
    """Cases of phantoms by their index in a population; needs no file.

    Args:
        population: which phantoms (`Population`).
        geometry: voxel grid; only `volume_size` is used.
        xray: X-rays of a case; `drr` and `align` are not used.
        xray_file: X-rays rendered elsewhere (`write_xrays`); None renders them.
        pose_noise: render X-rays at perturbed poses and store them without pose, as radiographs are
            (`dataset.xray.pose_perturbation`). One view, or two: frontal and lateral.
        name: name of the data set in results.

    Raises:
        UserError: `pose_noise` with an X-ray file or more than two views; augmentation that renders again.
    """

    def __init__(
        self,
        population: Population | None = None,
        geometry: Geometry | None = None,
        xray: Xrays | None = None,
        xray_file: str | None = None,
        pose_noise: bool = False,
        name: str = "phantom",
    ):
        self.population, self.geometry = population or Population(), geometry or Geometry((64, 64, 64))
        self.xray, self.name = xray or Xrays(), name
        self.xray_file = None if xray_file is None else Path(xray_file)
        self.pose_noise = bool(pose_noise)
        if self.pose_noise and self.xray_file is not None:
            raise UserError(
                f"dataset.xray_file={xray_file}: its X-rays have nominal poses; leave it out for "
                "dataset.pose_noise=true"
            )
        if self.pose_noise and self.xray.views > len(VIEW_NAMES):
            raise UserError(
                f"dataset.views={self.xray.views} with dataset.pose_noise=true: only {' and '.join(VIEW_NAMES)} have "
                "a name where the pose is unknown; set 1 or 2"
            )
        if self.xray.augmentation is not None and self.xray.augmentation.geometry.reproject:
            raise UserError("dataset.film.reproject=true: the CT of a phantom shows contrast, its X-ray must not")
        self.xray_options = XrayOptions(self.xray.augmentation)

    def missing(self) -> list[str]:
        """What the user has yet to provide: the file of X-rays, if one was named."""
        if self.xray_file is None or self.xray_file.is_file():
            return []
        return [f"dataset.xray_file={self.xray_file}: no such file; leave it out to render the X-rays here"]

    @cached_property
    def rows(self) -> pd.DataFrame:
        """The manifest. `label` is -1 here; the case carries the label once the phantom is rendered."""
        drawn = self.population
        first = {**FIRST_INDEX, "test": drawn.test_from}
        names = [(f"phantom_{n + i:08d}", split) for split, n in first.items() for i in range(getattr(drawn, split))]
        return make_rows(
            {"id": name, "patient": name, "view": "PA", "xray_source": "drr", "split": split} for name, split in names
        )

    def home(self) -> dict:
        """What identifies the cache folder: one per population."""
        return {"version": POPULATION_VERSION, "seed": self.population.seed}

    def key(self, row) -> str:
        """Hash of everything that the case of `row` depends on."""
        return case_key({**self.describe(), "index": _index(row)})

    def build(self, row) -> Case:
        """Render one phantom and its X-rays, which show no contrast."""
        drawn, views, size = self.population, self.xray.views, self.xray.size
        phantom = render_phantom(
            _index(row),
            seed=drawn.seed,
            size=self.geometry.volume_size,
            extent=drawn.extent,
            pe_share=drawn.pe_share,
            sign_rate=drawn.sign_rate,
        )
        poses = DrrSettings().poses(drawn.extent, views)
        if self.xray_file is not None:
            xray = read_xray_row(self.xray_file, _index(row), (views, *size))
        else:
            plain = torch.as_tensor(phantom.hu_plain, dtype=torch.float32)
            actual = perturbed_poses(poses, (drawn.seed, _index(row))) if self.pose_noise else poses
            xray = render_xray(plain, phantom.spacing, actual, size)
            poses = unknown_pose(views, VIEW_NAMES[:views]) if self.pose_noise else poses
        return pack_case(
            hu=phantom.hu, xray=xray, pose=poses, spacing=phantom.spacing, label=phantom.label, labels=phantom.labels
        )

    def describe(self) -> dict:
        """Protocol of the data: plain JSON, the same for every split."""
        drawn = self.population
        return {
            "dataset": self.name,
            "version": POPULATION_VERSION,
            "seed": drawn.seed,
            "volume_size": list(self.geometry.volume_size),
            "extent": list(drawn.extent),
            "xray_size": list(self.xray.size),
            "views": self.xray.views,
            "pe_share": float(drawn.pe_share),
            "sign_rate": float(drawn.sign_rate),
            "test_from": drawn.test_from,
            "xrays": "rendered" if self.xray_file is None else "8 bit, from a file",
            **({"pose_noise": describe()} if self.pose_noise else {}),
        }


def _index(row) -> int:
    return int(str(row["id"]).rsplit("_", 1)[1])


def write_xrays(path: str | Path, indices: list[int], xrays: Float[Tensor, "n v h w"]) -> None:
    """Write X-rays in [0, 1] of phantoms, with 8 bits, by their index in the population, for `PhantomSource`."""
    with atomic_path(Path(path)) as temporary:
        pixels = (xrays * 255.0).round().to(torch.uint8)
        save_tensors({"index": torch.tensor(indices), "xray": pixels.contiguous()}, temporary)


def read_xray_row(path: Path, index: int, size: tuple[int, int, int]) -> Float[Tensor, "v h w"]:
    """The X-rays of one phantom from a file of `write_xrays`.

    Raises:
        UserError: if the file does not hold it in this size.
    """
    with safe_open(path, framework="pt") as file:
        found = (file.get_tensor("index") == index).nonzero()
        pixels = file.get_slice("xray")
        if not len(found) or tuple(pixels.get_shape()[1:]) != size:
            held = f"{pixels.get_shape()[0]} X-rays of {pixels.get_shape()[1:]}"
            raise UserError(f"dataset.xray_file={path}: phantom {index} in {list(size)} is not among its {held}")
        row = int(found[0])
        return pixels[row : row + 1][0].float() / 255.0
