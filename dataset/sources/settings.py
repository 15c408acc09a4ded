"""Settings of a source of cases, grouped; config/dataset/ builds them from its flat keys."""

import hashlib
import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pandas as pd

from common.errors import UserError
from dataset.cases.source import positive
from dataset.imaging.drr_options import DrrSettings
from dataset.imaging.hu_window import Window
from dataset.manifest.splits import (
    assign_folds,
    assign_patients,
    assign_splits,
    known_folds,
    known_splits,
    with_parents,
)
from dataset.manifest.table import COLUMN_HELP
from dataset.xray.augmentation import XrayAugmentation

REPOSITORY = "repository:"  # first part of a folder within this project


@dataclass(frozen=True)
class Files:
    """Where the files of a data set are, and which columns of its manifest.csv to read.

    `source_window` is the HU window of input volumes; None means that the inputs are X-rays. `D` axial slices of the
    X-ray size on the grid of the target, scaled to [0, 1], replace the X-rays, whose options do not apply.
    """

    # folder with the files, without a `manifest.csv` the source scans it; `repository:/` is that of this project
    root_dir: str | Path | None = None
    label_column: str = "label"  # column with the label (0, 1, -1 = unknown)
    source_column: str = "xray"  # column with the model's input: X-rays or, with `source_window`, volumes
    source_window: object = None
    target_column: str = "ct"  # column with the volumes to generate
    require_manifest: bool = False  # do not scan the folder
    follow_links: bool = False  # also read files outside of the folder that links or manifest paths lead to

    def __post_init__(self):
        root = None if self.root_dir in (None, "") else Path(self.root_dir).expanduser()
        if root is not None and root.parts[:1] == (REPOSITORY,):
            root = Path(__file__).resolve().parents[2].joinpath(*root.parts[1:])
        window = None if self.source_window is None else Window.parse(self.source_window)
        own_columns = (self.source_column, self.target_column) != ("xray", "ct")
        _set(self, root_dir=root, source_window=window)
        _set(self, require_manifest=self.require_manifest or own_columns or window is not None)

    def missing(self) -> list[str]:
        """Files and keys that the user has to add, one phrase each."""
        content = f"manifest.csv: {COLUMN_HELP}" if self.require_manifest else "NIfTI or DICOM"
        if self.root_dir is None:
            return [f"dataset.root_dir (a folder with {content})"]
        if not self.root_dir.is_dir():
            return [f"dataset.root_dir={self.root_dir} (no such folder; give a folder with {content})"]
        if self.require_manifest and not (self.root_dir / "manifest.csv").is_file():
            return [f"{self.root_dir / 'manifest.csv'} (columns: {COLUMN_HELP})"]
        return []


@dataclass(frozen=True)
class Geometry:
    """Voxel grid and HU window of a case."""

    volume_size: tuple[int, int, int] = (128, 128, 128)  # voxels [D, H, W]
    # mm [D, H, W] to resample to before cropping or padding to `volume_size`; None resizes the volume
    spacing: tuple[float, float, float] | None = None
    window: Window | str = "wide"  # of the model: an error for a volume without any voxel in it; cases keep all HU
    remove_table: bool = True  # air in place of all that is outside the patient (`dataset.imaging.patient_mask`)

    def __post_init__(self):
        spacing = None if self.spacing is None else positive("dataset.spacing", self.spacing, 3, float)
        size = positive("dataset.volume_size", self.volume_size, 3)
        _set(self, volume_size=size, spacing=spacing, window=Window.parse(self.window))


@dataclass(frozen=True)
class Xrays:
    """The X-rays of a case, and their alignment and augmentation in a sample."""

    size: tuple[int, int] = (128, 128)  # pixels [h, w]
    views: int = 1  # X-rays per case, frontal first. DRRs: `DrrSettings.poses`; files: the order of the manifest
    drr: DrrSettings = field(default_factory=DrrSettings)  # of files; phantoms have PA DRRs
    augmentation: XrayAugmentation | None = None  # random changes in training
    augment: bool = True  # False: no augmentation
    align: str = "none"  # `lungs` aligns X-rays of unknown pose by their lungs

    def __post_init__(self):
        _set(self, size=positive("dataset.xray_size", self.size, 2), views=positive("dataset.views", self.views, 1)[0])
        _set(self, augmentation=self.augmentation if self.augment else None)


@dataclass(frozen=True)
class Splits:
    """Assignment of patients to training, validation and test."""

    val_share: float = 0.1  # of the patients whose split the manifest leaves open
    test_share: float = 0.1
    seed: int = 0
    n_folds: int | None = None  # cross-validation instead of the shares (`dataset.manifest.splits.assign_folds`)
    fold: int = 0
    cache_dir: str | Path = "outputs/cache"  # patients in the manifest of an earlier run keep their split or fold
    test_patients: tuple[str, ...] | None = None  # these are test and validation, all others training: no shares,
    val_patients: tuple[str, ...] | None = None  # no splits of the manifest, no folds

    def __post_init__(self):
        for key in ("test_patients", "val_patients"):
            names = getattr(self, key)
            names = [names] if isinstance(names, (str, int)) else names
            _set(self, **{key: None if names is None else tuple(str(name) for name in names)})
        if self.chosen and self.n_folds is not None:
            raise UserError(f"dataset.n_folds={self.n_folds}: leave it out with dataset.test_patients or val_patients")

    @property
    def chosen(self) -> bool:
        """Whether the patients of test or validation are given."""
        return self.test_patients is not None or self.val_patients is not None

    @property
    def manifest(self) -> str:
        """Name of the manifest in the cache; each fold and choice of patients has its own."""
        if self.chosen:
            names = json.dumps([sorted(self.test_patients or ()), sorted(self.val_patients or ())])
            return f"manifest_patients_{hashlib.sha256(names.encode()).hexdigest()[:12]}.csv"
        return "manifest.csv" if self.n_folds is None else f"manifest_fold_{self.fold}_of_{self.n_folds}.csv"

    def assign(self, rows: pd.DataFrame, folder: Path, table: str | Path = "manifest.csv") -> pd.DataFrame:
        """The rows with a split for each patient, given the earlier manifests in `folder` of the cache.

        `table` is the manifest that the rows come from, for messages.

        A patient with the name or a CT of one in an earlier manifest keeps its split or fold. One that joins patients
        of several splits trains if one of them did, else validates: no earlier model is tested on whom it has seen.

        UserError for a patient that joins those of several folds, for a name in `test_patients` or `val_patients` that
        no row has, or that is in both, and for a synthetic case whose family the user put into several splits.
        """
        if self.chosen:
            val, test = self.val_patients or (), self.test_patients or ()
            given = rows["patient"].isin([*val, *test])
            return with_parents(rows, partial(assign_patients, val=val, test=test), "split", given, table)
        folds = self.n_folds is not None
        tables = folder.glob(f"manifest_fold_*_of_{self.n_folds}.csv" if folds else "manifest.csv")
        newest = max(tables, key=lambda table: table.stat().st_mtime_ns, default=None)  # it has all earlier patients
        if folds:
            known = known_folds(rows, newest) if newest else {}
            draw = partial(assign_folds, n_folds=self.n_folds, fold=self.fold, seed=self.seed)
            return with_parents(rows, draw, "fold", rows["fold"] >= 0, table, known)
        known = known_splits(rows, newest) if newest else {}
        draw = partial(assign_splits, val=self.val_share, test=self.test_share, seed=self.seed)
        return with_parents(rows, draw, "split", rows["split"] != "", table, known)


def _set(settings, **values) -> None:
    for name, value in values.items():
        object.__setattr__(settings, name, value)
