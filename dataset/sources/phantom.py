"""Thorax phantoms with their DRR as a source of cases, rendered when they are first needed."""

from dataclasses import dataclass
from functools import cached_property

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from common.errors import UserError
from dataset.cases.case import Case, case_key, pack_case
from dataset.cases.source import positive
from dataset.imaging.drr import render_xray
from dataset.imaging.drr_options import DrrSettings
from dataset.imaging.forward_model import CASE_GRID, NOT_DRAWN, ForwardModel
from dataset.imaging.geometry import unknown_pose
from dataset.manifest.table import make_rows
from dataset.phantom.anatomy import Disease
from dataset.phantom.render import POPULATION_VERSION, Phantom, render_phantom
from dataset.sources.settings import Geometry, Xrays
from dataset.xray.options import XrayOptions
from dataset.xray.pose_perturbation import PROTOCOL, perturbed_poses

# Index ranges of the splits do not overlap: more training phantoms never include a test phantom.
FIRST_INDEX = {"train": 0, "val": 10_000_000, "test": 20_000_000}
VIEW_NAMES = ("PA", "lateral")  # first views of `DrrSettings.poses`, named where the pose is unknown


@dataclass(frozen=True)
class Population:
    """A population of phantoms and the number of each split."""

    train: int = 400
    val: int = 16
    test: int = 32
    seed: int = 0
    extent: tuple[float, float, float] = (320.0, 256.0, 352.0)  # mm [D, H, W], edge to edge
    pe_share: float = 0.5  # share of phantoms with pulmonary emboli, 0 to 1
    sign_rate: float = 0.6  # share of those whose X-ray shows a sign of them, 0 to 1
    test_from: int = FIRST_INDEX["test"]  # first test phantom; another index draws other cases, as for calibration

    def __post_init__(self):
        object.__setattr__(self, "extent", positive("dataset.extent", self.extent, 3, float))
        if self.test_from < FIRST_INDEX["test"]:
            raise UserError(f"dataset.test_from={self.test_from}: give {FIRST_INDEX['test']} or more")


class PhantomSource:
    """Cases of phantoms by their index in a population; needs no file.

    Args:
        geometry: only `volume_size` counts.
        xray: X-rays of a case, except for `drr` and `align`; no augmentation with `reproject`.
        pose_noise: render X-rays at perturbed poses and store them without pose, like radiographs
            (`dataset.xray.pose_perturbation`). One view, or two: frontal and lateral.
    """

    def __init__(
        self, population: Population, geometry: Geometry, xray: Xrays, pose_noise: bool = False, name: str = "phantom"
    ):
        self.population, self.geometry, self.xray, self.name = population, geometry, xray, name
        self.pose_noise = bool(pose_noise)
        if self.pose_noise and self.xray.views > len(VIEW_NAMES):
            raise UserError(
                f"dataset.views={self.xray.views} with dataset.pose_noise=true: only {' and '.join(VIEW_NAMES)} have "
                "a name where the pose is unknown; set 1 or 2"
            )
        if self.xray.augmentation is not None and self.xray.augmentation.geometry.reproject:
            raise UserError("dataset.film.reproject=true: the CT of a phantom shows contrast, its X-ray must not")
        self.xray_options = XrayOptions(self.xray.augmentation)

    def missing(self) -> list[str]:
        """Nothing: phantoms need no file."""
        return []

    @cached_property
    def rows(self) -> pd.DataFrame:
        """The manifest. `label` is -1 here; the case has the label of the rendered phantom."""
        drawn = self.population
        first = {**FIRST_INDEX, "test": drawn.test_from}
        names = [(f"phantom_{n + i:08d}", split) for split, n in first.items() for i in range(getattr(drawn, split))]
        return make_rows(
            {"id": name, "patient": name, "view": "PA", "xray_source": "drr", "split": split} for name, split in names
        )

    def home(self) -> dict:
        """Identity of the cache folder: one per population."""
        return {"version": POPULATION_VERSION, "seed": self.population.seed}

    def key(self, row) -> str:
        """Hash of all settings of the case of `row`."""
        return case_key({**self.describe(), "index": phantom_index(row)})

    def build(self, row) -> Case:
        """Renders one phantom and its X-rays, which show no contrast."""
        return self.case_of(self.render(phantom_index(row)), row)

    def render(self, index: int, disease: Disease | None = None) -> Phantom:
        """Phantom `index` of the population on the grid of the cases; `disease` replaces its findings."""
        drawn = self.population
        place = (index, drawn.seed, self.geometry.volume_size, drawn.extent)
        return render_phantom(*place, pe_share=drawn.pe_share, sign_rate=drawn.sign_rate, disease=disease)

    def case_of(self, phantom: Phantom, row) -> Case:
        """The case of a rendered phantom."""
        poses = DrrSettings().poses(self.population.extent, self.xray.views)
        xray = self.xrays(row, phantom, poses)
        if self.pose_noise:
            poses = unknown_pose(self.xray.views, VIEW_NAMES[: self.xray.views])
        return pack_case(
            hu=phantom.hu, xray=xray, pose=poses, spacing=phantom.spacing, label=phantom.label, labels=phantom.labels
        )

    def xrays(self, row, phantom: Phantom, poses: Float[Tensor, "v 9"]) -> Float[Tensor, "v h w"]:
        """X-rays of a phantom without contrast, at poses that `pose_noise` perturbs."""
        if self.pose_noise:
            poses = perturbed_poses(poses, (self.population.seed, phantom_index(row)))
        return render_xray(torch.from_numpy(phantom.hu_plain), phantom.spacing, poses, self.xray.size)

    def forward_model(self) -> dict:
        """How the X-rays came about: from the drawing without contrast medium, on the grid of the case."""
        pose = {"pose": f"unknown: {PROTOCOL}"} if self.pose_noise else {}
        return ForwardModel(iodine=NOT_DRAWN, grid=CASE_GRID, **pose).describe()

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
            "xrays": "rendered",
            **({"pose_noise": PROTOCOL} if self.pose_noise else {}),
        }


def phantom_index(row) -> int:
    """Index in the population of the phantom in a row of the manifest."""
    return int(str(row["id"]).rsplit("_", 1)[1])
