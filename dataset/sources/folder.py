"""A folder of CT volumes as a source of cases: scanned, or described by its `manifest.csv`; X-rays made if missing."""

import logging
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from common.errors import UserError
from common.file_limits import LINKS, expect_inside, expect_links_inside
from dataset.cases.case import Case, case_key, pack_case
from dataset.cases.source import positive
from dataset.cases.store import source_folder
from dataset.imaging.drr_options import DrrSettings
from dataset.imaging.geometry import unknown_pose
from dataset.imaging.hu_window import AIR_HU, Window
from dataset.imaging.iodine import iodine_ml
from dataset.imaging.resampling import downsample, resample, resample_onto
from dataset.imaging.volume import Volume
from dataset.io.ct import read_volume
from dataset.io.xray import read_xray
from dataset.manifest.splits import assign_folds, assign_splits
from dataset.manifest.table import COLUMN_HELP, VOLUME, parts, read_manifest
from dataset.sources.folder_scan import discover
from dataset.xray.augmentation import XrayAugmentation
from dataset.xray.options import XrayOptions

IODINE_GRID_MM = 5.0  # fine enough to tell a contrast CT

log = logging.getLogger(__name__)


class FolderSource:
    """CT volumes of a folder, each with its X-ray: films that come with it, else DRRs of its own geometry.

    Args:
        root_dir: the folder. A `manifest.csv` in it says what belongs together; without one it is scanned.
        volume_size: voxels `[D, H, W]` of a case.
        spacing: None resizes each whole volume to `volume_size`; mm `[d, h, w]` resamples to that and crops or pads.
        xray_size: pixels `[h, w]`.
        views: X-rays a case. Films: the frontal first, then as the manifest lists them; DRRs: `DrrSettings.poses`.
        window: HU window of the model, only to refuse volumes with nothing in it: cases keep all HU.
        val_share, test_share: shares of the patients, for those whose split the manifest leaves open.
        n_folds, fold: cross-validation in place of the splits (`dataset.manifest.splits.assign_folds`).
        seed: of the split.
        label_column: column of the manifest that holds the label (0, 1, -1 = unknown).
        source_column: column that holds what the model is shown: X-rays or, with `source_window`, volumes.
        source_window: HU window of these volumes. Each is then given as `D` axial slices of `xray_size` in the place
            of the target, scaled to [0, 1], instead of X-rays; `drr`, `film` and `align` have no part then.
        target_column: column that holds the volumes to be generated.
        require_manifest: do not scan: a `manifest.csv` must be there.
        follow_links: read files outside of the folder, to which links or paths of the manifest lead.
        drr: how X-rays are made.
        film: random changes of X-rays in training; None, or not `film_augment`: none.
        align: `lungs` lays films, whose pose nobody knows, by their lungs; `none` takes them as they are.
        cache_dir: where an earlier split is looked up, so that patients keep theirs when the folder grows.
        name: how results call the data set.

    Raises:
        UserError: a size, window, fold or alignment that cannot be.
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
        n_folds: int | None = None,
        fold: int = 0,
        seed: int = 0,
        label_column: str = "label",
        source_column: str = "xray",
        source_window=None,
        target_column: str = "ct",
        require_manifest: bool = False,
        follow_links: bool = False,
        drr: DrrSettings | None = None,
        film: XrayAugmentation | None = None,
        film_augment: bool = True,
        align: str = "none",
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
        self.n_folds, self.fold = None if n_folds is None else int(n_folds), int(fold)
        self.label_column = label_column
        self.source_column, self.target_column = source_column, target_column
        self.source_window = None if source_window is None else Window.parse(source_window)
        film = film if film_augment else None
        own_columns = (source_column, target_column) != ("xray", "ct")
        self.require_manifest = bool(require_manifest) or own_columns or self.source_window is not None
        self.follow_links = bool(follow_links)
        self.drr = drr or DrrSettings()
        if self.source_window is None:
            self.xray_options = XrayOptions(film, align, self.drr.render)
        else:  # there are no X-rays
            self.xray_options = XrayOptions()
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
            rows = read_manifest(path, self.label_column, self.target_column)
            if self.source_column not in rows.columns:
                found = ", ".join(rows.columns)
                raise UserError(
                    f"{path}: no column {self.source_column} as dataset.source_column asks; it has {found}"
                )
            rows["xray"] = rows[self.source_column]
            if self.source_window is not None:
                rows["xray_source"] = VOLUME
            self._check_files(rows, path)
        else:
            rows = discover(self.root, follow_links=self.follow_links)
        if self.n_folds is None:
            rows = assign_splits(rows, self.val_share, self.test_share, self.seed, self._known("split"))
        else:
            rows = assign_folds(rows, self.n_folds, self.fold, self.seed, self._known("fold"))
        counts = rows["split"].value_counts().to_dict()
        log.info("%s: %d volumes of %d patients, %s", self.root, len(rows), rows["patient"].nunique(), counts)
        return rows

    @property
    def manifest(self) -> str:
        """Name of the table that is written into the cache; each fold has its own."""
        return "manifest.csv" if self.n_folds is None else f"manifest_fold_{self.fold}_of_{self.n_folds}.csv"

    def home(self) -> dict:
        """What decides the cache folder: the folder and its split, not the size of the volumes."""
        shares = [self.val_share, self.test_share]
        return {"root": str(self.root.resolve()) if self.root else "", "seed": self.seed, "shares": shares}

    def key(self, row) -> str:
        """Hash of path, size and time of the files of a case, and of the settings it is made with."""
        files = [_stamp(self.root, part) for part in (row["ct"], *parts(row["xray"]))]
        made = self._preparation() | ({} if row["xray"] else {"drr": self.drr.describe()})
        return case_key({**made, "spacing": self.spacing, "view": row["view"], "files": files})

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
        small = resample(volume, self.volume_size, self.spacing)
        iodine = None
        if self.source_window is not None:
            xray, poses = self._slices(row, small), unknown_pose(self.volume_size[0])
        elif row["xray"]:
            xray, poses = self._films(row)
        else:
            poses = self.drr.poses(volume.extent, self.views)
            xray = self.drr.render(volume, poses, self.xray_size)
            coarse = downsample(volume, IODINE_GRID_MM)
            iodine = 0.0 if self.drr.remove_iodine else iodine_ml(coarse.hu, coarse.spacing)
        # Cropping and padding may move the centre by part of a voxel; poses are relative to it.
        right_left, back_front, down_up = np.subtract(small.centre, volume.centre)
        poses[:, 4:7] -= torch.tensor([down_up, -back_front, -right_left], dtype=torch.float32)
        return pack_case(small.hu, xray, poses, small.spacing, small.centre, iodine_ml=iodine)

    def describe(self) -> dict:
        """Protocol of the data: plain JSON, no path."""
        said = self._preparation()
        if self.source_window is None:
            said["drr"] = self.drr.describe()
        if self.n_folds is not None:
            said |= {"n_folds": self.n_folds, "fold": self.fold}
        return said

    def _preparation(self) -> dict:
        said = {
            "dataset": self.name,
            "volume_size": list(self.volume_size),
            "resampling": "resize" if self.spacing is None else "spacing",
            "xray_size": list(self.xray_size),
            "views": self.views,
        }
        if self.source_window is not None:
            window = [self.source_window.low, self.source_window.high]
            said |= {"views": self.volume_size[0], "input": "volume", "input_window": window}
        return said

    def _films(self, row) -> tuple[torch.Tensor, torch.Tensor]:
        """The films of a case, frontal first."""
        films, views = parts(row["xray"]), parts(row["view"]) or [""] * len(parts(row["xray"]))
        order = sorted(range(len(films)), key=lambda i: views[i] == "lateral")
        if len(films) < self.views:
            raise UserError(
                f"{row['xray']}: {len(films)} film{'s' * (len(films) > 1)} but dataset.views={self.views}; name all "
                "in manifest.csv as frontal.png;lateral.png, or set dataset.views=1"
            )
        chosen = order[: self.views]
        images = [read_xray(self.root / films[i], self.xray_size, lateral=views[i] == "lateral") for i in chosen]
        return torch.stack(images), unknown_pose(self.views, [views[i] for i in chosen])

    def _slices(self, row, target: Volume) -> torch.Tensor:
        """The source volume where the target lies, its slices from inferior to superior, in [0, 1]."""
        if not row["xray"]:
            raise UserError(f"{row['id']}: no file in the column {self.source_column}; give the source volume")
        volume = read_volume(self.root / row["xray"])
        onto = resample_onto(volume, target, (self.volume_size[0], *self.xray_size))
        return self.source_window.normalise(torch.from_numpy(onto)) * 0.5 + 0.5

    def _known(self, column: str) -> dict:
        """Splits or folds of patients in a table that an earlier run has written."""
        folder = source_folder(self, self.cache_dir)
        pattern = "manifest.csv" if column == "split" else f"manifest_fold_*_of_{self.n_folds}.csv"
        tables = sorted(folder.glob(pattern))
        return read_manifest(tables[0]).groupby("patient")[column].first().to_dict() if tables else {}

    def _check_files(self, rows: pd.DataFrame, path: Path) -> None:
        for i, row in enumerate(rows.to_dict("records")):
            for column, files in (("ct", [row["ct"]]), ("xray", parts(row["xray"]))):
                if not all((self.root / file.partition("#")[0]).exists() for file in files):
                    raise UserError(f"{path}: row {i + 2}, {column}={row[column]}: no such file; correct the path")
                if not self.follow_links:
                    for file in files:
                        place = self.root / file.partition("#")[0]
                        expect_inside(place, self.root, f"{path}: row {i + 2}, {column}", LINKS)
                        if place.is_dir():  # a DICOM series: its slices may be links
                            expect_links_inside(place)


def _stamp(root: Path, part: str) -> list:
    """Relative path, size and time of a file, or of every file of a DICOM folder."""
    path = root / part.partition("#")[0]
    files = sorted(child for child in path.iterdir() if child.is_file()) if path.is_dir() else [path]
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return [part, stats]
