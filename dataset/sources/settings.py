"""Settings of a source of cases, grouped; config/dataset/ builds them from its flat keys."""

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from dataset.cases.source import positive
from dataset.imaging.drr_options import DrrSettings
from dataset.imaging.hu_window import Window
from dataset.manifest.splits import assign_folds, assign_splits
from dataset.manifest.table import COLUMN_HELP, read_manifest
from dataset.xray.augmentation import XrayAugmentation


@dataclass(frozen=True)
class Files:
    """Where the files of a data set are, and which columns of its manifest.csv to read.

    Attributes:
        root_dir: folder with the files. Without a `manifest.csv` in it the folder is scanned.
        label_column: column with the label (0, 1, -1 = unknown).
        source_column: column with the model's input: X-rays or, with `source_window`, volumes.
        source_window: HU window of input volumes. Each one is resampled to `D` axial slices of the X-ray size on the
            grid of the target and scaled to [0, 1]; options of X-rays do not apply. None: the inputs are X-rays.
        target_column: column with the volumes to generate.
        require_manifest: do not scan the folder.
        follow_links: also read files outside of the folder that links or manifest paths lead to.
    """

    root_dir: str | Path | None = None
    label_column: str = "label"
    source_column: str = "xray"
    source_window: object = None
    target_column: str = "ct"
    require_manifest: bool = False
    follow_links: bool = False

    def __post_init__(self):
        root = None if self.root_dir in (None, "") else Path(self.root_dir).expanduser()
        window = None if self.source_window is None else Window.parse(self.source_window)
        own_columns = (self.source_column, self.target_column) != ("xray", "ct")
        _set(self, root_dir=root, source_window=window)
        _set(self, require_manifest=self.require_manifest or own_columns or window is not None)

    def missing(self) -> list[str]:
        """What the user has yet to provide, one phrase each."""
        what = (
            f"a folder with manifest.csv: {COLUMN_HELP}" if self.require_manifest else "a folder with NIfTI or DICOM"
        )
        if self.root_dir is None:
            return [f"dataset.root_dir ({what})"]
        if not self.root_dir.is_dir():
            return [f"dataset.root_dir={self.root_dir} (no such folder; give {what})"]
        if self.require_manifest and not (self.root_dir / "manifest.csv").is_file():
            return [f"{self.root_dir / 'manifest.csv'} (columns: {COLUMN_HELP})"]
        return []


@dataclass(frozen=True)
class Geometry:
    """Voxel grid and HU window of a case.

    Attributes:
        volume_size: voxels `[D, H, W]`.
        spacing: mm `[D, H, W]` to resample to before cropping or padding to `volume_size`; None resizes the volume.
        window: HU window of the model. A volume without any voxel in it is refused; cases keep all HU.
    """

    volume_size: tuple[int, int, int] = (128, 128, 128)
    spacing: tuple[float, float, float] | None = None
    window: Window | str = "wide"

    def __post_init__(self):
        spacing = None if self.spacing is None else positive("dataset.spacing", self.spacing, 3, float)
        size = positive("dataset.volume_size", self.volume_size, 3)
        _set(self, volume_size=size, spacing=spacing, window=Window.parse(self.window))


@dataclass(frozen=True)
class Xrays:
    """The X-rays of a case, and what is done to them when a sample is made.

    Attributes:
        size: pixels `[h, w]`.
        views: X-rays per case, the frontal one first. DRRs: `DrrSettings.poses`; files: the order of the manifest.
        drr: how DRRs of files are made; phantoms have PA DRRs.
        augmentation: random changes in training; None, or `augment=False`, makes none.
        align: `lungs` aligns X-rays of unknown pose by their lungs, `none` keeps them as they are.
    """

    size: tuple[int, int] = (128, 128)
    views: int = 1
    drr: DrrSettings = field(default_factory=DrrSettings)
    augmentation: XrayAugmentation | None = None
    augment: bool = True
    align: str = "none"

    def __post_init__(self):
        _set(self, size=positive("dataset.xray_size", self.size, 2), views=positive("dataset.views", self.views, 1)[0])
        _set(self, augmentation=self.augmentation if self.augment else None)


@dataclass(frozen=True)
class Splits:
    """How patients are assigned to training, validation and test.

    Attributes:
        val_share, test_share: shares of the patients whose split the manifest leaves open.
        seed: of the assignment.
        n_folds, fold: cross-validation instead of the shares (`dataset.manifest.splits.assign_folds`).
        cache_dir: cache with the manifest of an earlier run. Patients in it keep their split or fold.
    """

    val_share: float = 0.1
    test_share: float = 0.1
    seed: int = 0
    n_folds: int | None = None
    fold: int = 0
    cache_dir: str | Path = "outputs/cache"

    @property
    def manifest(self) -> str:
        """Name of the manifest in the cache; each fold has its own."""
        return "manifest.csv" if self.n_folds is None else f"manifest_fold_{self.fold}_of_{self.n_folds}.csv"

    def assign(self, rows: pd.DataFrame, folder: Path) -> pd.DataFrame:
        """The rows with a split for each patient, given the earlier manifests in `folder` of the cache."""
        column, pattern = (
            ("split", "manifest.csv") if self.n_folds is None else ("fold", f"manifest_fold_*_of_{self.n_folds}.csv")
        )
        tables = sorted(folder.glob(pattern))
        known = read_manifest(tables[0]).groupby("patient")[column].first().to_dict() if tables else {}
        if self.n_folds is None:
            return assign_splits(rows, self.val_share, self.test_share, self.seed, known)
        return assign_folds(rows, self.n_folds, self.fold, self.seed, known)

    def describe(self) -> dict:
        """Folds for the protocol of the data: plain JSON."""
        return {} if self.n_folds is None else {"n_folds": self.n_folds, "fold": self.fold}


def _set(settings, **values) -> None:
    """Assign converted values to a frozen dataclass."""
    for name, value in values.items():
        object.__setattr__(settings, name, value)
