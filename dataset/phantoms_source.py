"""The embedded data set as a source of cases: thorax phantoms with their DRR, drawn when they are first needed."""

from functools import cached_property

import pandas as pd
import torch

from dataset.cases import Case, case_key, pack_case, positive, view_poses
from dataset.drr import render_xray
from dataset.manifest import COLUMNS
from dataset.phantom import POPULATION_VERSION, render_phantom

# Splits draw from far apart in the population: more training phantoms never turn a test phantom into a training one.
FIRST_INDEX = {"train": 0, "val": 10_000_000, "test": 20_000_000}


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
        name: str = "phantom",
    ):
        self.counts = {"train": int(train), "val": int(val), "test": int(test)}
        self.seed, self.name = int(seed), name
        self.volume_size = positive("dataset.volume_size", volume_size, 3)
        self.extent = positive("dataset.extent", extent, 3, float)
        self.xray_size = positive("dataset.xray_size", xray_size, 2)
        self.views = positive("dataset.views", views, 1)[0]
        self.pe_share, self.sign_rate = float(pe_share), float(sign_rate)

    def missing(self) -> list[str]:
        """What the user has yet to provide: nothing."""
        return []

    @cached_property
    def rows(self) -> pd.DataFrame:
        """The manifest. `label` is -1 here: it is known once a phantom is drawn, and its case carries it."""
        names = [
            (f"phantom_{FIRST_INDEX[split] + i:08d}", split) for split, n in self.counts.items() for i in range(n)
        ]
        rows = [(name, name, "", "", "PA", "drr", -1, split) for name, split in names]
        return pd.DataFrame(rows, columns=list(COLUMNS))

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
        poses = view_poses(self.extent, self.views)
        plain = torch.as_tensor(phantom.hu_plain, dtype=torch.float32)
        xray = render_xray(plain, phantom.spacing, poses, self.xray_size)
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
        }


def _index(row) -> int:
    return int(str(row["id"]).rsplit("_", 1)[1])
