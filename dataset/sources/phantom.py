"""The embedded data set as a source of cases: thorax phantoms with their DRR, drawn when they are first needed."""

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
from dataset.xray.augmentation import XrayAugmentation
from dataset.xray.options import XrayOptions
from dataset.xray.pose_perturbation import describe, perturbed_poses

# Splits draw from far apart in the population: more training phantoms never turn a test phantom into a training one.
FIRST_INDEX = {"train": 0, "val": 10_000_000, "test": 20_000_000}
NAMED = ("PA", "lateral")  # the first views of `DrrSettings.poses`, as films of unknown pose are told apart


class PhantomSource:
    """Phantoms of one population, by index; needs no file.

    Args:
        train, val, test: number of phantoms in each split.
        seed: of the population.
        volume_size: voxels `[D, H, W]`.
        extent: mm `[D, H, W]`, edge to edge.
        xray_size: pixels `[h, w]` of each X-ray.
        views: X-rays per phantom, spread evenly over 180 degrees; the first is frontal.
        pe_share: share of phantoms with emboli, 0 to 1.
        sign_rate: share of those whose X-ray shows a sign of them, 0 to 1.
        film: random changes of X-rays in training; None, or not `film_augment`: none.
        test_from: population index of the first test phantom; another one draws other cases, for calibration say.
        xray_file: X-rays made elsewhere (`write_xrays`), which needs no renderer; None renders them.
        pose_noise: X-rays are taken at disturbed poses that nobody knows, as films are
        (`dataset.xray.pose_perturbation`);
            one view or two, frontal and lateral.
        name: how results call the data set.
    """

    def __init__(
        self,
        train: int = 400,
        val: int = 16,
        test: int = 32,
        seed: int = 0,
        volume_size=(64, 64, 64),
        extent=(320.0, 256.0, 352.0),
        xray_size=(128, 128),
        views: int = 1,
        pe_share: float = 0.5,
        sign_rate: float = 0.6,
        film: XrayAugmentation | None = None,
        film_augment: bool = True,
        test_from: int = FIRST_INDEX["test"],
        xray_file: str | None = None,
        pose_noise: bool = False,
        name: str = "phantom",
    ):
        self.counts = {"train": int(train), "val": int(val), "test": int(test)}
        self.seed, self.name = int(seed), name
        self.volume_size = positive("dataset.volume_size", volume_size, 3)
        self.extent = positive("dataset.extent", extent, 3, float)
        self.xray_size = positive("dataset.xray_size", xray_size, 2)
        self.views = positive("dataset.views", views, 1)[0]
        self.pe_share, self.sign_rate = float(pe_share), float(sign_rate)
        self.first = {**FIRST_INDEX, "test": int(test_from)}
        if self.first["test"] < FIRST_INDEX["test"]:
            raise UserError(f"dataset.test_from={test_from}: must be {FIRST_INDEX['test']} or more, past the others")
        self.xray_file = None if xray_file is None else Path(xray_file)
        self.pose_noise = bool(pose_noise)
        if self.pose_noise and self.xray_file is not None:
            raise UserError(
                f"dataset.xray_file={xray_file}: its X-rays were made at nominal poses; leave it out for "
                "dataset.pose_noise=true"
            )
        if self.pose_noise and self.views > len(NAMED):
            raise UserError(
                f"dataset.views={self.views} with dataset.pose_noise=true: only {' and '.join(NAMED)} are known by "
                "name where the pose is not; set 1 or 2"
            )
        film = film if film_augment else None
        if film is not None and film.geometry.reproject:
            raise UserError("dataset.film.reproject=true: a phantom's case shows contrast, its X-ray must not")
        self.xray_options = XrayOptions(film)

    def missing(self) -> list[str]:
        """What the user has yet to provide: the file of X-rays, if one was named."""
        if self.xray_file is None or self.xray_file.is_file():
            return []
        return [f"dataset.xray_file={self.xray_file}: no such file; leave it out to render the X-rays here"]

    @cached_property
    def rows(self) -> pd.DataFrame:
        """The manifest. `label` is -1 here: it is known once a phantom is drawn, and its case carries it."""
        names = [(f"phantom_{self.first[split] + i:08d}", split) for split, n in self.counts.items() for i in range(n)]
        return make_rows(
            {"id": name, "patient": name, "view": "PA", "xray_source": "drr", "split": split} for name, split in names
        )

    def home(self) -> dict:
        """What decides the cache folder: one a population."""
        return {"version": POPULATION_VERSION, "seed": self.seed}

    def key(self, row) -> str:
        """Hash of everything that the case of `row` depends on."""
        settings = self.describe()
        return case_key({**settings, "index": _index(row)})

    def build(self, row) -> Case:
        """Draw one phantom and its X-rays, without contrast."""
        phantom = render_phantom(
            _index(row),
            seed=self.seed,
            size=self.volume_size,
            extent=self.extent,
            pe_share=self.pe_share,
            sign_rate=self.sign_rate,
        )
        poses = DrrSettings().poses(self.extent, self.views)
        if self.xray_file is None:
            plain = torch.as_tensor(phantom.hu_plain, dtype=torch.float32)
            taken = perturbed_poses(poses, (self.seed, _index(row))) if self.pose_noise else poses
            xray = render_xray(plain, phantom.spacing, taken, self.xray_size)
            poses = unknown_pose(self.views, NAMED[: self.views]) if self.pose_noise else poses
        else:
            xray = read_xray_row(self.xray_file, _index(row), (self.views, *self.xray_size))
        return pack_case(
            hu=phantom.hu, xray=xray, pose=poses, spacing=phantom.spacing, label=phantom.label, labels=phantom.labels
        )

    def describe(self) -> dict:
        """Protocol of the data: plain JSON, the same for every split."""
        return {
            "dataset": self.name,
            "version": POPULATION_VERSION,
            "seed": self.seed,
            "volume_size": list(self.volume_size),
            "extent": list(self.extent),
            "xray_size": list(self.xray_size),
            "views": self.views,
            "pe_share": self.pe_share,
            "sign_rate": self.sign_rate,
            "test_from": self.first["test"],
            "xrays": "rendered" if self.xray_file is None else "8 bit, from a file",
            **({"pose_noise": describe()} if self.pose_noise else {}),
        }


def _index(row) -> int:
    return int(str(row["id"]).rsplit("_", 1)[1])


def write_xrays(path: str | Path, indices: list[int], xrays: Float[Tensor, "n v h w"]) -> None:
    """X-rays in [0, 1] of phantoms by their index in the population, kept with 8 bits, for `PhantomSource`."""
    with atomic_path(Path(path)) as temporary:
        pixels = (xrays * 255.0).round().to(torch.uint8)
        save_tensors({"index": torch.tensor(indices), "xray": pixels.contiguous()}, temporary)


def read_xray_row(path: Path, index: int, size: tuple[int, int, int]) -> Float[Tensor, "v h w"]:
    """The X-rays of one phantom, of a file of `write_xrays`.

    Raises:
        UserError: if the file does not hold it, or in another size.
    """
    with safe_open(path, framework="pt") as file:
        found = (file.get_tensor("index") == index).nonzero()
        pixels = file.get_slice("xray")
        if not len(found) or tuple(pixels.get_shape()[1:]) != size:
            held = f"{pixels.get_shape()[0]} X-rays of {pixels.get_shape()[1:]}"
            raise UserError(f"dataset.xray_file={path}: phantom {index} in {list(size)} is not among its {held}")
        row = int(found[0])
        return pixels[row : row + 1][0].float() / 255.0
