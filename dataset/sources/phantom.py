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
from dataset.imaging.forward_model import CASE_GRID, NOT_DRAWN, noise_stream
from dataset.imaging.geometry import unknown_pose
from dataset.imaging.volume import Volume
from dataset.manifest.table import make_rows
from dataset.phantom.anatomy import Disease
from dataset.phantom.render import Phantom, draw_for_xrays, render_phantom
from dataset.sources.settings import Geometry, Xrays
from dataset.xray.options import XrayOptions
from dataset.xray.pose_perturbation import PROTOCOL, perturbed_poses

# Raise it when a phantom or its X-ray changes: results of different versions are not comparable. Version 1 are X-rays
# without noise, rendered from the volume of the case itself.
POPULATION_VERSION = 2
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
        xray: X-rays of a case, except for `align`, and of `drr` only photons and attenuation map; no augmentation with
            `reproject`.
        pose_noise: render X-rays at perturbed poses and store them without pose, like radiographs
            (`dataset.xray.pose_perturbation`). One view, or two: frontal and lateral.
        oversample: voxels along each side of a voxel of the case in the drawing that the X-rays show; 1 renders them
            from the volume of the case, with the noise of its voxels.
    """

    def __init__(
        self,
        population: Population,
        geometry: Geometry,
        xray: Xrays,
        pose_noise: bool = False,
        name: str = "phantom",
        oversample: int = 2,
    ):
        self.population, self.geometry, self.xray, self.name = population, geometry, xray, name
        self.pose_noise, self.oversample = bool(pose_noise), int(oversample)
        self.drr = DrrSettings(attenuation=xray.drr.attenuation, photons=xray.drr.photons)
        if self.oversample < 1:
            raise UserError(f"dataset.oversample={oversample}: give 1 or more")
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
        return {"version": self.version, "seed": self.population.seed}

    @property
    def version(self) -> int:
        """Version of the population; the settings of version 1 give its cases."""
        return 1 if self.oversample == 1 and self.drr.photons is None else POPULATION_VERSION

    def key(self, row) -> str:
        """Hash of all settings of the case of `row`."""
        return case_key({**self.describe(), "index": phantom_index(row)})

    def build(self, row) -> Case:
        """Renders one phantom and its X-rays, which show no contrast."""
        phantom = self.render(self.index(row), self.disease(row))
        poses = self.drr.poses(self.population.extent, self.xray.views)
        xray = self.xrays(row, phantom, poses)
        if self.pose_noise:
            poses = unknown_pose(self.xray.views, VIEW_NAMES[: self.xray.views])
        return pack_case(
            hu=phantom.hu, xray=xray, pose=poses, spacing=phantom.spacing, label=phantom.label, labels=phantom.labels
        )

    def index(self, row) -> int:
        """Index in the population of the phantom in a row of the manifest."""
        return phantom_index(row)

    def disease(self, row) -> Disease | None:
        """Findings in place of the drawn ones."""
        return None

    def render(self, index: int, disease: Disease | None = None) -> Phantom:
        """Phantom `index` of the population on the grid of the cases; `disease` replaces its findings."""
        return render_phantom(**self._drawn(index, disease))

    def xrays(self, row, phantom: Phantom, poses: Float[Tensor, "v 9"]) -> Float[Tensor, "v h w"]:
        """X-rays of a phantom without contrast, at poses that `pose_noise` perturbs."""
        index, shown = self.index(row), Volume(phantom.hu_plain, phantom.spacing)
        if self.pose_noise:
            poses = perturbed_poses(poses, (self.population.seed, index))
        if self.oversample > 1:
            shown = draw_for_xrays(**self._drawn(index, self.disease(row)), oversample=self.oversample)
        hu, stream = torch.from_numpy(shown.hu), noise_stream(f"phantom {self.population.seed} {index}")
        look = self.drr.image, self.drr.attenuation, self.drr.photons, stream
        return render_xray(hu, shown.spacing, poses, self.xray.size, *look)

    def _drawn(self, index: int, disease: Disease | None) -> dict:
        """Arguments of both drawings."""
        drawn = self.population
        rates = {"pe_share": drawn.pe_share, "sign_rate": drawn.sign_rate, "disease": disease}
        return {"index": index, "seed": drawn.seed, "size": self.geometry.volume_size, "extent": drawn.extent, **rates}

    def forward_model(self) -> dict:
        """How the X-rays came about: from a drawing without contrast medium."""
        pose = {"pose": f"unknown: {PROTOCOL}"} if self.pose_noise else {}
        finer = f"of a drawing {self.oversample} times as fine as the case"
        return self.drr.forward_model(iodine=NOT_DRAWN, grid=CASE_GRID if self.oversample == 1 else finer, **pose)

    def describe(self) -> dict:
        """Protocol of the data: plain JSON, the same for every split."""
        drawn = self.population
        return {
            "dataset": self.name,
            "version": self.version,
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
            **({"oversample": self.oversample, "photons": self.drr.photons} if self.version > 1 else {}),
            **({"attenuation": self.drr.attenuation} if self.drr.attenuation != "bilinear" else {}),
        }


def phantom_index(row) -> int:
    """Index in the population of the phantom in a row of the manifest."""
    return int(str(row["id"]).rsplit("_", 1)[1])
