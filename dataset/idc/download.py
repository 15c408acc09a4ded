"""Downloads the series of a `Selection` with idc-index, and prepares them as `dataset/prepare.py` does."""

from pathlib import Path

from omegaconf import OmegaConf

from common.errors import UserError
from common.files import ROOT
from dataset.idc.index import Selection
from dataset.preparation.options import prepare_set


def download(selection: Selection, folder: Path) -> None:
    """Writes the DICOM files below `folder`; UserError without idc-index or a network."""
    remedy = f"the list is complete: download its SeriesInstanceUIDs into {folder} where there is a network"
    try:
        from idc_index import IDCClient
    except ImportError as error:
        raise UserError(
            f"not downloaded: the package idc-index is missing (pip install idc-index); {remedy}"
        ) from error
    folder.mkdir(parents=True, exist_ok=True)
    try:
        IDCClient().download_dicom_series(list(selection.series["SeriesInstanceUID"]), downloadDir=str(folder))
    except Exception as error:  # of idc-index and its downloader
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise UserError(f"not downloaded ({reason}); {remedy}") from error


def prepare_downloaded(output: Path, max_days: float | None, kind: str) -> Path:
    """The manifest of the set in `<output>/set`, with pairs alone."""
    cfg = OmegaConf.load(ROOT / "config" / "prepare.yaml")
    for key in ("defaults", "hydra"):
        cfg.pop(key)
    cfg.source, cfg.output, cfg.unpaired = str(output / "dicom"), str(output / "set"), "skip"
    cfg.max_hours = None if max_days is None else 24.0 * (max_days + 1)  # dates so many days apart
    cfg.min_vessel_hu = cfg.min_vessel_hu if kind == "ctpa" else None
    return prepare_set(cfg)[1]
