"""One case: its CT read, cropped, resampled and written; its X-ray read and written."""

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from common.files import DISK_ERRORS
from dataset.imaging.coverage import cropped, resample_scanned
from dataset.imaging.iodine import central_vessel_hu
from dataset.imaging.patient_mask import only_patient
from dataset.imaging.volume import check_air
from dataset.io.dicom_volume import read_series, straighten
from dataset.io.nifti import write_nifti
from dataset.io.volume_files import data_files
from dataset.io.xray_dicom import XrayImage
from dataset.preparation.crop_box import find_crop_box, make_segmenter
from dataset.preparation.plan import Task
from dataset.preparation.radiographs import read_radiograph, write_radiograph
from dataset.preparation.series_ranking import has_contrast_agent

VERSION = 4  # raise it when the same source and settings give other files
OLD_KEYS = ["latents_window=ctpa", "vae_ckpt=None"]  # of earlier versions, in the state of the cases they finished
CONTRAST_HU = 150.0  # smallest HU of the heart and great vessels with contrast medium
DESCRIPTION = "CT, prepared: table removed, cropped, resampled"


@dataclass(frozen=True)
class CropSettings:
    """Arguments of `find_crop_box` and `make_segmenter` in `dataset.preparation.crop_box`."""

    kind: str
    margin: float
    min_lung_ml: float
    segmenter: str
    lungmask_weights: str | None
    remove_table: bool = True  # air in place of all that is outside the patient


@dataclass(frozen=True)
class Settings:
    """How cases are made; keys of `config/prepare.yaml`."""

    output: Path
    crop: CropSettings
    spacing: tuple[float, float, float] | None
    volume_size: tuple[int, int, int] | None
    min_vessel_hu: float | None
    unpaired: str
    trim_border: bool
    mask_text: bool

    def ct(self, case: str) -> Path:
        return self.output / "ct" / f"{case}.nii.gz"

    def xray(self, case: str) -> Path:
        return self.output / "xray" / f"{case}.png"

    def record(self, case: str) -> Path:
        return self.output / "cases" / f"{case}.json"


def state_of(task: Task, settings: Settings) -> str:
    """All that the files of a case depend on, as text: the source files with size and time, and the settings.

    The text names files of the source, so only a keyed hash of it may be stored.
    """
    voxels = [file for path in task.series.files for file in data_files(path)] if task.series.is_file else []
    files = [*task.series.files, *voxels, *([task.xray.path] if task.xray else [])]
    stamps = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    values = {**vars(settings), **vars(settings.crop), "voi": settings.crop.kind}  # voi: key of earlier versions
    made_by = [f"{name}={value}" for name, value in values.items() if name not in ("output", "crop", "kind")]
    return json.dumps([VERSION, task.series.key, task.view, stamps, sorted(made_by + OLD_KEYS)])


def finished(task: Task, settings: Settings, state: str) -> dict[str, Any] | None:
    """The record of a case that an earlier run made from the same files with the same settings, or None."""
    try:
        record = json.loads(settings.record(task.id).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    files = [settings.ct(task.id), *([settings.xray(task.id)] if record.get("xray") else [])]
    return record if record.get("state") == state and all(file.is_file() for file in files) else None


def make_case(task: Task, settings: Settings, state: str) -> dict[str, Any]:
    """Write the CT and the X-ray of one case; returns its record, or `{"failed": reason}`.

    Reasons and flags may hold a path of the source: the caller scrubs them, then writes the record.
    """
    warnings: list[str] = []
    try:
        with _warnings_into(warnings):
            image, xray = _read_xray(task, settings)
            ct = _make_ct(task, settings)
            if image is not None:  # last, so that no image remains of a CT that fails
                settings.xray(task.id).parent.mkdir(parents=True, exist_ok=True)
                write_radiograph(image.image, settings.xray(task.id))
    except UserError as error:
        return {"failed": str(error)}
    except OSError as error:
        if error.errno in DISK_ERRORS:  # every other case would fail as well
            raise
        return {"failed": f"{task.id}: cannot be read or written ({error.strerror or type(error).__name__})"}
    return {"state": state, **ct, **xray, "flags": ct["flags"] + xray["flags"] + warnings}


@contextlib.contextmanager
def _warnings_into(found: list[str]) -> Iterator[None]:
    """Collect the warnings of our readers as flags of the case instead of printing them: they name files."""
    logger = logging.getLogger("dataset")
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: found.append(record.getMessage())
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


def _make_ct(task: Task, settings: Settings) -> dict[str, Any]:
    one, crop, spacing, size = task.series, settings.crop, settings.spacing, settings.volume_size
    volume = read_series(one, task.id)
    check_air(volume.hu, task.id)
    digest = hashlib.sha256(np.rint(volume.hu).astype(np.int16).tobytes()).hexdigest()[:16]
    resampled = spacing is not None or size is not None
    if resampled:
        volume = straighten(volume)  # before the crop: a box along the axes of the scan would lose its corners
    segmenter = make_segmenter(crop.segmenter, crop.lungmask_weights)
    found = find_crop_box(volume, crop.kind, crop.margin, crop.min_lung_ml, segmenter)
    vessels = central_vessel_hu(found.coarse, found.lungs)
    flags = list(found.flags)
    if settings.min_vessel_hu is not None and vessels is not None and vessels < settings.min_vessel_hu:
        flags.append(f"central vessels of {vessels:.0f} HU, below {settings.min_vessel_hu:g}")
    if one.acquisition.tilt:
        flags.append(f"gantry tilt of {one.acquisition.tilt:g} degrees in the header, but slices without shear")
    if crop.remove_table:
        volume = only_patient(volume, found.patient)
    volume = cropped(volume, found.box)
    if resampled:
        size = size or tuple(max(1, round(e / s)) for e, s in zip(volume.extent, spacing, strict=True))
        volume = resample_scanned(volume, size, spacing)
    settings.record(task.id).unlink(missing_ok=True)  # or, if this run is killed, it would describe other files
    write_nifti(settings.ct(task.id), volume.hu, volume.spacing, volume.centre, DESCRIPTION, volume.direction)
    return {
        "spacing": " ".join(f"{s:.6g}" for s in volume.spacing),
        "size": " ".join(str(n) for n in volume.hu.shape),
        "source_hash": digest,
        "voi": found.kind,
        "lung_ml": round(sum(found.lung_ml)),
        "vessel_hu": None if vessels is None else round(vessels),
        "contrast": has_contrast_agent(one) or (vessels is not None and vessels >= CONTRAST_HU),
        "flags": flags,
    }


def _read_xray(task: Task, settings: Settings) -> tuple[XrayImage | None, dict[str, Any]]:
    """The radiograph and its part of the record; a DRR and a flag replace a rejected one."""
    flags = []
    if task.xray is not None:
        try:
            image = read_radiograph(task.xray.path, settings.trim_border, settings.mask_text, view=task.view)
            return image, {"xray": True, "view": image.view, "flags": image.notes}
        except UserError as error:
            reason = str(error).replace(str(task.xray.path), "X-ray")
            if settings.unpaired == "skip":
                raise UserError(reason) from error
            flags = [f"X-ray refused, replaced by a DRR: {reason}"]
    return None, {"xray": False, "view": "", "flags": flags}
