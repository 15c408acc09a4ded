"""One case: its CT read, cut to the volume of interest, resampled and written; its X-ray read and written."""

import contextlib
import functools
import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from common.files import DISK_ERRORS, atomic_path
from dataset.imaging.iodine import central_vessel_hu
from dataset.imaging.resampling import resample
from dataset.imaging.volume import Volume
from dataset.io.dicom_volume import read_series, straighten
from dataset.io.nifti import write_nifti
from dataset.preparation.crop_box import cropped, interest, make_segmenter
from dataset.preparation.plan import Task
from dataset.preparation.radiographs import RadiographImage, read_radiograph, write_radiograph
from dataset.preparation.series_ranking import Contrast

VERSION = 2  # raise it when the same source and settings would give other files
REMOVED_KEYS = ["latents_window=ctpa", "vae_ckpt=None"]  # in the state of cases that an earlier version finished
CONTRAST_HU = 150.0  # heart and great vessels above this hold iodine
DESCRIPTION = "CT, prepared: cropped, resampled"

_segmenter = functools.cache(make_segmenter)


@dataclass(frozen=True)
class Settings:
    """How cases are made; plain values, as `config/prepare.yaml` explains them."""

    output: Path
    spacing: tuple[float, float, float] | None = (1.0, 1.0, 1.0)
    volume_size: tuple[int, int, int] | None = None
    voi: str = "lungs"
    margin: float = 15.0
    min_lung_ml: float = 1000.0
    min_vessel_hu: float | None = 150.0
    segmenter: str = "threshold"
    lungmask_weights: str | None = None
    unpaired: str = "drr"
    trim_border: bool = False
    mask_text: bool = False

    def ct(self, case: str) -> Path:
        return self.output / "ct" / f"{case}.nii.gz"

    def xray(self, case: str) -> Path:
        return self.output / "xray" / f"{case}.png"

    def record(self, case: str) -> Path:
        return self.output / "cases" / f"{case}.json"


def state_of(task: Task, settings: Settings) -> str:
    """All that the files of a case depend on, as text: the source files with size and time, and the settings.

    It names files of the source: only a keyed hash of it may be stored.
    """
    files = [*task.series.files, *([task.xray.path] if task.xray else [])]
    stamps = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    made_by = [f"{name}={value}" for name, value in vars(settings).items() if name != "output"]
    return json.dumps([VERSION, task.series.key, task.view, stamps, sorted(made_by + REMOVED_KEYS)])


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

    Reasons and flags may still hold a path of the source: the caller scrubs them, then writes the record.
    """
    warnings: list[str] = []
    try:
        with _warnings_into(warnings):
            film, xray = _read_xray(task, settings)
            ct = _make_ct(task, settings)
            if film is not None:  # last: a CT that fails leaves no picture behind
                settings.xray(task.id).parent.mkdir(parents=True, exist_ok=True)
                write_radiograph(film, settings.xray(task.id))
    except UserError as error:
        return {"failed": str(error)}
    except OSError as error:
        if error.errno in DISK_ERRORS:  # every other case would fail as well
            raise
        return {"failed": f"{task.id}: cannot be read or written ({error.strerror or type(error).__name__})"}
    return {"state": state, **ct, **xray, "flags": ct["flags"] + xray["flags"] + warnings}


@contextlib.contextmanager
def _warnings_into(found: list[str]) -> Iterator[None]:
    """What our readers warn of becomes a flag of the case instead of a line on a screen: it names files."""
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
    one = task.series
    volume = read_series(one, task.id)
    digest = hashlib.sha256(np.rint(volume.hu).astype(np.int16).tobytes()).hexdigest()[:16]
    if settings.spacing is not None or settings.volume_size is not None:
        volume = straighten(volume)  # before it is cropped: a box along the scan's axes would lose its corners
    segmenter = _segmenter(settings.segmenter, settings.lungmask_weights)
    found = interest(volume, settings.voi, settings.margin, settings.min_lung_ml, segmenter)
    vessels = central_vessel_hu(found.coarse, found.lungs)
    flags = list(found.flags)
    if settings.min_vessel_hu is not None and vessels is not None and vessels < settings.min_vessel_hu:
        flags.append(f"central vessels of {vessels:.0f} HU, below {settings.min_vessel_hu:g}")
    if one.acquisition.tilt:
        flags.append(
            f"the header states a gantry tilt of {one.acquisition.tilt:g} degrees, but the slices do not lean"
        )
    stated = bool(one.slices) and bool(Contrast(words=()).score(one))
    volume = fitted(cropped(volume, found.box), settings.spacing, settings.volume_size)
    path = settings.ct(task.id)
    write_nifti(path, volume.hu, volume.spacing, volume.centre, DESCRIPTION, volume.direction)
    return {
        "spacing": " ".join(f"{s:.6g}" for s in volume.spacing),
        "size": " ".join(str(n) for n in volume.hu.shape),
        "source_hash": digest,
        "voi": found.kind,
        "lung_ml": round(sum(found.lung_ml)),
        "vessel_hu": None if vessels is None else round(vessels),
        "contrast": stated or (vessels is not None and vessels >= CONTRAST_HU),
        "flags": flags,
    }


def fitted(volume: Volume, spacing: tuple[float, float, float] | None, size: tuple[int, int, int] | None) -> Volume:
    """The volume at its final spacing and size.

    With neither, its own voxels and its own tilt are kept. Otherwise it is turned straight, then: with `spacing` (mm)
    resampled, and with `size` too cropped or padded; with `size` alone resized.
    """
    if spacing is None and size is None:
        return volume
    volume = straighten(volume)
    if size is None:
        size = tuple(max(1, round(e / s)) for e, s in zip(volume.extent, spacing, strict=True))
    return resample(volume, size, spacing)


def _read_xray(task: Task, settings: Settings) -> tuple[RadiographImage | None, dict[str, Any]]:
    """The radiograph and what the record says of it; one that is refused leaves a DRR row and a flag."""
    if task.xray is None:
        return None, {"xray": False, "view": "", "flags": []}
    try:
        image = read_radiograph(task.xray.path, settings.trim_border, settings.mask_text, view=task.view)
    except UserError as error:
        reason = str(error).replace(str(task.xray.path), "X-ray")
        if settings.unpaired == "skip":
            raise UserError(reason) from error
        return None, {"xray": False, "view": "", "flags": [f"X-ray refused, a DRR stands for it: {reason}"]}
    return image, {"xray": True, "view": image.view, "flags": list(image.notes)}


def write_record(record: dict[str, Any], path: Path) -> None:
    """The record of a case, atomically: the last of its files, so that a case with a record is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")
