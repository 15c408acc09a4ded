"""CT volumes of a folder as a source of cases, with their X-rays or DRRs; from manifest.csv or a scan."""

import logging
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from common.errors import UserError
from common.file_limits import LINKS, expect_inside, expect_links_inside
from common.files import visible
from dataset.cases.case import Case, case_key, pack_case
from dataset.cases.store import source_folder
from dataset.imaging.coverage import NOT_SCANNED_HU, at_least_air, fill, resample_scanned
from dataset.imaging.drr_options import DrrSettings
from dataset.imaging.forward_model import noise_stream
from dataset.imaging.geometry import unknown_pose
from dataset.imaging.iodine import iodine_ml as measure_iodine
from dataset.imaging.patient_mask import without_surroundings
from dataset.imaging.resampling import downsample, resample_onto
from dataset.imaging.volume import Volume
from dataset.io.ct import read_volume
from dataset.io.paths import split_series
from dataset.io.volume_files import data_files, x2ct_pose
from dataset.io.xray import read_xray_with_header
from dataset.manifest.separated import parts
from dataset.manifest.table import VOLUME, read_manifest
from dataset.sources.folder_scan import discover
from dataset.sources.settings import Files, Geometry, Splits, Xrays
from dataset.xray.options import XrayOptions

# part of the cache key of cases with radiographs
FILM = {"unknown_pixels": "NaN", "unknown_view": "header", "lateral": "front at column 0"}
IODINE_GRID_MM = 5.0  # voxel size at which iodine is measured

log = logging.getLogger(__name__)


class FolderSource:
    """Cases of CT volumes in a folder, each with its own X-rays or with DRRs; `name` is that of the data set."""

    def __init__(self, files: Files, geometry: Geometry, xray: Xrays, splits: Splits, name: str = "default"):
        self.files, self.geometry, self.xray, self.splits, self.name = files, geometry, xray, splits, name
        self.drr = xray.drr
        options = (self.xray.augmentation, self.xray.align, self.drr.render)
        self.xray_options = XrayOptions(*(options if self.files.source_window is None else ()))

    def missing(self) -> list[str]:
        """Files and keys that the user has to add, one phrase each."""
        return self.files.missing()

    @cached_property
    def rows(self) -> pd.DataFrame:
        """The manifest with the split of every case; UserError for missing files, no CT or an invalid manifest."""
        if missing := self.missing():
            raise UserError(f"missing: {'; '.join(missing)}")
        files, path = self.files, self.files.root_dir / "manifest.csv"
        if path.is_file():
            rows = read_manifest(path, files.label_column, files.target_column, files.source_column)
            if files.source_window is not None:
                rows["xray_source"] = VOLUME
            self._check_files(rows, path)
        else:
            rows = discover(files.root_dir, follow_links=files.follow_links)
        rows = self.splits.assign(rows, source_folder(self, self.splits.cache_dir), path)
        counts = rows["split"].value_counts().to_dict()
        log.info("%s: %d volumes of %d patients, %s", files.root_dir, len(rows), rows["patient"].nunique(), counts)
        return rows

    @property
    def manifest(self) -> str:
        """Name of the manifest in the cache; each fold and choice of patients has its own."""
        return self.splits.manifest

    def home(self) -> dict:
        """Identity of the cache folder: the data folder and its splits, not the size of the volumes."""
        root, shares = self.files.root_dir, [float(self.splits.val_share), float(self.splits.test_share)]
        return {"root": str(root.resolve()) if root else "", "seed": int(self.splits.seed), "shares": shares}

    def key(self, row) -> str:
        """Hash of path, size and time of the files of a case, and of the settings that make it."""
        files = [_stamp(self.files.root_dir, part) for part in (row["ct"], *parts(row["xray"]))]
        kind = {"drr": self.drr.describe()} if not row["xray"] else {} if self.files.source_window else FILM
        settings = self._preparation() | kind
        return case_key({**settings, "spacing": self.geometry.spacing, "view": row["view"], "files": files})

    def build(self, row) -> Case:
        """Reads, projects and resamples one volume; UserError for an unusable file."""
        return self.case_of(self.read(row), row)

    def read(self, row) -> Volume:
        """The CT of a row in HU, with marks where it was not scanned; surroundings of the patient become air."""
        path, window = self.files.root_dir / row["ct"], self.geometry.window
        volume = read_volume(path)
        if not ((volume.hu > window.low) & (volume.hu < window.high)).any():
            low, high = float(volume.hu.min()), float(volume.hu.max())
            raise UserError(
                f"{path}: no HU in range, values from {low:g} to {high:g} are outside "
                f"dataset.window=[{window.low:g}, {window.high:g}]"
            )
        volume.hu = at_least_air(volume.hu)  # padding such as -2000 is air
        return without_surroundings(volume) if self.geometry.remove_table else volume

    def case_of(self, volume: Volume, row, iodine_ml: float | None = None, drr: DrrSettings | None = None) -> Case:
        """The case of a volume: projected and resampled; its iodine is measured unless given.

        X-rays show the last slices repeated where the scan ends; `drr` replaces the settings of the data set.
        """
        drr = drr or self.drr
        size, level = self.geometry.volume_size, logging.DEBUG if row.get("parents") else logging.INFO
        small = resample_scanned(volume, size, self.geometry.spacing)
        if missing := 100.0 * float((small.hu == NOT_SCANNED_HU).mean()):
            log.log(level, "%s: %.0f %% not scanned, left out of losses and metrics", row["ct"], missing)
        volume.hu, scanned = fill(volume.hu)
        if not row["xray"] and not scanned.all():
            log.log(level, "%s: the last slices are repeated in its X-ray", row["ct"])
        if self.files.source_window is not None:
            xray, poses = self._source_slices(row, small), unknown_pose(size[0])
        elif row["xray"]:
            xray, poses = self._read_xrays(row)
        else:
            poses = drr.poses(volume.extent, self.xray.views)
            xray = drr.render(volume, poses, self.xray.size, noise_stream(row["id"]))
            if drr.remove_iodine:
                iodine_ml = 0.0
            elif iodine_ml is None:
                coarse = downsample(volume, IODINE_GRID_MM)
                iodine_ml = measure_iodine(coarse.hu, coarse.spacing)
        # Cropping and padding may move the centre by part of a voxel; poses are relative to it.
        right_left, back_front, down_up = np.subtract(small.centre, volume.centre)
        poses[:, 4:7] -= torch.tensor([down_up, -back_front, -right_left], dtype=torch.float32)
        return pack_case(small.hu, xray, poses, small.spacing, small.centre, iodine_ml=iodine_ml)

    def frame(self) -> dict:
        """Settings of grid and DRRs on which cases depend that are made and not read: plain JSON."""
        spacing = {} if self.geometry.spacing is None else {"spacing": self.geometry.spacing}
        return {**self._preparation(), "drr": self.drr.describe(), **spacing}

    def anatomy_key(self, row) -> list:
        """What the anatomy of a case depends on: path, size and time of its CT, and the removal of the table."""
        return [_stamp(self.files.root_dir, row["ct"]), self.geometry.remove_table]

    def describe(self) -> dict:
        """Protocol of the data: plain JSON, no path."""
        drr = {"drr": self.drr.describe()} if self.files.source_window is None else {}
        folds = {} if self.splits.n_folds is None else {"n_folds": self.splits.n_folds, "fold": self.splits.fold}
        return {**self._preparation(), **drr, **folds}

    def forward_model(self) -> dict | None:
        """How the X-rays came about; None for input volumes and where a case has X-ray files, which others made."""
        files = self.files.source_window is not None or (self.rows["xray"] != "").any()
        return None if files else self.drr.forward_model()

    def _preparation(self) -> dict:
        settings = {
            "dataset": self.name,
            "volume_size": list(self.geometry.volume_size),
            "resampling": "resize" if self.geometry.spacing is None else "spacing",
            "remove_table": self.geometry.remove_table,
            "xray_size": list(self.xray.size),
            "views": self.xray.views,
        }
        if (window := self.files.source_window) is not None:
            depth = self.geometry.volume_size[0]
            settings |= {"views": depth, "input": "volume", "input_window": [window.low, window.high]}
        return settings

    def _read_xrays(self, row) -> tuple[torch.Tensor, torch.Tensor]:
        """The X-ray files of a case, frontal first, and their poses, which only X2CT-GAN's files state."""
        files, wanted = parts(row["xray"]), self.xray.views
        views = parts(row["view"]) or [""] * len(files)
        if len(files) < wanted:
            raise UserError(
                f"{row['xray']}: {len(files)} X-ray{'s' * (len(files) > 1)} but dataset.views={wanted}; list all "
                "in manifest.csv as frontal.png;lateral.png, or set dataset.views=1"
            )
        chosen = sorted(range(len(files)), key=lambda i: views[i] == "lateral")[:wanted]
        root, size = self.files.root_dir, self.xray.size
        read = [read_xray_with_header(root / files[i], size, lateral=views[i] == "lateral") for i in chosen]
        images = [image for image, _ in read]
        poses = unknown_pose(wanted, [views[i] or header.view for i, (_, header) in zip(chosen, read, strict=True)])
        for place, i in enumerate(chosen):
            if (known := x2ct_pose(files[i])) is not None:
                poses[place] = known
        return torch.stack(images), poses

    def _source_slices(self, row, target: Volume) -> torch.Tensor:
        """The input volume on the grid of the target: slices from inferior to superior in [0, 1]."""
        if not row["xray"]:
            raise UserError(f"{row['id']}: no file in the column {self.files.source_column}; give the source volume")
        volume = read_volume(self.files.root_dir / row["xray"])
        volume.hu = fill(volume.hu)[0]
        resampled = resample_onto(volume, target, (self.geometry.volume_size[0], *self.xray.size))
        return self.files.source_window.normalise(torch.from_numpy(resampled)) * 0.5 + 0.5

    def _check_files(self, rows: pd.DataFrame, manifest: Path) -> None:
        root = self.files.root_dir
        for i, row in enumerate(rows.to_dict("records"), start=2):
            for column, names in (("ct", [row["ct"]]), ("xray", parts(row["xray"]))):
                paths = [split_series(root / name)[0] for name in names]
                if not all(path.exists() for path in paths):
                    raise UserError(f"{manifest}: row {i}, {column}={row[column]}: no such file; correct the path")
                for path in () if self.files.follow_links else paths:
                    expect_inside(path, root, f"{manifest}: row {i}, {column}", LINKS)
                    if path.is_dir():  # slices of a DICOM series may be links
                        expect_links_inside(path)


def _stamp(root: Path, part: str) -> list:
    """Relative path, size and time of a file and of its separate voxels, or of every file of a DICOM folder."""
    path, _ = split_series(root / part)
    single = not path.is_dir()
    files = [path, *data_files(path)] if single else visible(child for child in path.iterdir() if child.is_file())
    return [part, [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]]
