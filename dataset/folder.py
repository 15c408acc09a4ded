"""A folder of CT volumes as a source of cases: scanned, or described by its `manifest.csv`; X-rays made if missing."""

import logging
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from dataset.cases import Case, case_key, pack_case, positive, source_folder, view_poses
from dataset.discover import discover
from dataset.drr import render_xray
from dataset.errors import UserError
from dataset.geometry import unknown_pose
from dataset.intensity import AIR_HU, Window
from dataset.manifest import COLUMN_HELP, assign_splits, read_manifest
from dataset.resample import reduced, resample
from dataset.volume_io import Volume, read_volume
from dataset.xray_io import read_xray

log = logging.getLogger(__name__)


class FolderSource:
    """CT volumes of a folder, each with its X-ray: a film that comes with it, else a DRR of its own geometry.

    Args:
        root_dir: the folder. A `manifest.csv` in it says what belongs together; without one it is scanned.
        volume_size: voxels `[D, H, W]` of a case.
        spacing: None resizes each whole volume to `volume_size`; mm `[d, h, w]` resamples to that and crops or pads.
        xray_size: pixels `[h, w]`.
        views: DRRs per case, spread over 180 degrees, the first frontal; a film is always one view.
        window: HU window of the model, only to refuse volumes with nothing in it: cases keep all HU.
        val_share, test_share: shares of the patients, for those whose split the manifest leaves open.
        seed: of the split.
        label_column: column of the manifest that holds the label (0, 1, -1 = unknown).
        require_manifest: do not scan: a `manifest.csv` must be there.
        cache_dir: where an earlier split is looked up, so that patients keep theirs when the folder grows.
        name: how results call the data set.
    """

    def __init__(
        self,
        root_dir: str | Path | None = None,
        volume_size=(128, 128, 128),
        spacing=None,
        xray_size=(128, 128),
        views: int = 1,
        window="wide",
        val_share: float = 0.1,
        test_share: float = 0.1,
        seed: int = 0,
        label_column: str = "label",
        require_manifest: bool = False,
        cache_dir: str | Path = "outputs/cache",
        name: str = "default",
    ):
        self.root = None if root_dir in (None, "") else Path(root_dir).expanduser()
        self.volume_size = positive("dataset.volume_size", volume_size, 3)
        self.spacing = None if spacing is None else positive("dataset.spacing", spacing, 3, float)
        self.xray_size = positive("dataset.xray_size", xray_size, 2)
        self.views = positive("dataset.views", views, 1)[0]
        self.window = Window.parse(window)
        self.val_share, self.test_share, self.seed = float(val_share), float(test_share), int(seed)
        self.label_column, self.require_manifest = label_column, bool(require_manifest)
        self.cache_dir, self.name = Path(cache_dir), name

    def missing(self) -> list[str]:
        """What the user has yet to provide, a phrase each."""
        what = (
            f"a folder with manifest.csv: {COLUMN_HELP}" if self.require_manifest else "a folder with NIfTI or DICOM"
        )
        if self.root is None:
            return [f"dataset.root_dir ({what})"]
        if not self.root.is_dir():
            return [f"dataset.root_dir={self.root} (no such folder; give {what})"]
        if self.require_manifest and not (self.root / "manifest.csv").is_file():
            return [f"{self.root / 'manifest.csv'} (columns: {COLUMN_HELP})"]
        return []

    @cached_property
    def rows(self) -> pd.DataFrame:
        """The manifest with every split filled in.

        Raises:
            UserError: if something is missing, the folder is empty, or the manifest breaks a rule or names no file.
        """
        if missing := self.missing():
            raise UserError(f"missing: {'; '.join(missing)}")
        path = self.root / "manifest.csv"
        if path.is_file():
            rows = read_manifest(path, self.label_column)
            self._check_files(rows, path)
        else:
            rows = discover(self.root)
        rows = assign_splits(rows, self.val_share, self.test_share, self.seed, self._known_splits())
        counts = rows["split"].value_counts().to_dict()
        log.info("%s: %d volumes of %d patients, %s", self.root, len(rows), rows["patient"].nunique(), counts)
        return rows

    def home(self) -> dict:
        """What decides the cache folder: the folder and its split, not the size of the volumes."""
        shares = [self.val_share, self.test_share]
        return {"root": str(self.root.resolve()) if self.root else "", "seed": self.seed, "shares": shares}

    def key(self, row) -> str:
        """Hash of path, size and time of the files of a case, and of the settings it is made with."""
        files = [_stamp(self.root, part) for part in (row["ct"], row["xray"]) if part]
        return case_key({**self.describe(), "spacing": self.spacing, "files": files})

    def build(self, row) -> Case:
        """Read, project and resample one volume.

        Raises:
            UserError: for a file that cannot be used.
        """
        path = self.root / row["ct"]
        volume = read_volume(path)
        inside = (volume.hu > self.window.low) & (volume.hu < self.window.high)
        if not inside.any():
            low, high = float(volume.hu.min()), float(volume.hu.max())
            window = f"[{self.window.low:g}, {self.window.high:g}]"
            raise UserError(
                f"{path}: no HU in range, values from {low:g} to {high:g} lie outside dataset.window={window}"
            )
        volume.hu = np.maximum(volume.hu, AIR_HU, dtype=np.float32)  # padding such as -2000 is air
        xray, poses = self._xray(row, volume)
        small = resample(volume, self.volume_size, self.spacing)
        # Cropping and padding may move the centre by part of a voxel; poses are relative to it.
        right_left, back_front, down_up = np.subtract(small.centre, volume.centre)
        poses[:, 4:7] -= torch.tensor([down_up, -back_front, -right_left], dtype=torch.float32)
        return pack_case(small.hu, xray, poses, small.spacing, small.centre)

    def describe(self) -> dict:
        """Protocol of the data: plain JSON, no path."""
        return {
            "dataset": self.name,
            "volume_size": list(self.volume_size),
            "resampling": "resize" if self.spacing is None else "spacing",
            "xray_size": list(self.xray_size),
            "views": self.views,
        }

    def _xray(self, row, volume: Volume) -> tuple[torch.Tensor, torch.Tensor]:
        if row["xray"]:
            if self.views > 1:
                raise UserError(
                    f"{row['xray']}: a film is one view but dataset.views={self.views}; set dataset.views=1"
                )
            return read_xray(self.root / row["xray"], self.xray_size)[None], unknown_pose(1)
        poses = view_poses(volume.extent, self.views)
        # Rays cross the volume at points: means over half a pixel's width at the patient keep its noise out.
        finest = min(float(poses[0, 7]) / self.xray_size[0], float(poses[0, 8]) / self.xray_size[1]) / 2.0
        coarse = reduced(volume, finest)
        return render_xray(torch.from_numpy(coarse.hu), coarse.spacing, poses, self.xray_size), poses

    def _known_splits(self) -> dict[str, str]:
        path = source_folder(self, self.cache_dir) / "manifest.csv"
        if not path.is_file():
            return {}
        return read_manifest(path).groupby("patient")["split"].first().to_dict()

    def _check_files(self, rows: pd.DataFrame, path: Path) -> None:
        for i, row in enumerate(rows.to_dict("records")):
            for column in ("ct", "xray"):
                part = row[column].partition("#")[0]
                if part and not (self.root / part).exists():
                    raise UserError(f"{path}: row {i + 2}, {column}={row[column]}: no such file; correct the path")


def _stamp(root: Path, part: str) -> list:
    """Relative path, size and time of a file, or of every file of a DICOM folder."""
    path = root / part.partition("#")[0]
    files = sorted(child for child in path.iterdir() if child.is_file()) if path.is_dir() else [path]
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return [part, stats]
