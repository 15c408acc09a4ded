"""Radiographs in a folder tree, found by their headers, and the image of one for a training set."""

import logging
from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np
import pydicom
from jaxtyping import Float

from common.errors import UserError
from common.files import atomic_path
from dataset.io.dicom_headers import VALUE_ERRORS, has_dicom_mark, read_tags, time_of
from dataset.io.dicom_series import folders_of
from dataset.io.xray import read_xray_image, scale_xray_image
from dataset.io.xray_dicom import is_radiograph, view_of
from dataset.preparation.borders_and_text import mask_text as without_text
from dataset.preparation.borders_and_text import trim_border as without_border

CHEST = ("CHEST", "THORAX", "LUNG", "RIBS", "STERNUM", "PULMO")  # words of Body Part Examined
PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".npy")
TAGS = [
    "SOPClassUID", "SOPInstanceUID", "Modality", "PatientID", "PatientSex",
    "StudyDate", "StudyTime", "SeriesDate", "SeriesTime", "AcquisitionDate", "AcquisitionTime",
    "AcquisitionDateTime", "ContentDate", "ContentTime", "AccessionNumber", "StudyInstanceUID", "SeriesDescription",
    "ProtocolName", "ViewPosition", "ViewCodeSequence", "PatientOrientation", "BodyPartExamined",
    "PresentationIntentType", "IrradiationEventUID", "SourceImageSequence", "Rows",
]  # fmt: skip

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Exposure:
    """What identifies the exposure of a DICOM radiograph, which may be stored in two versions.

    Attributes:
        uid: IrradiationEventUID, the same in both versions.
        made_from: SOP instances that the image was made from.
        for_processing: the detector's own values (Presentation Intent Type FOR PROCESSING).
    """

    uid: str = ""
    made_from: tuple[str, ...] = ()
    for_processing: bool = False


@dataclass
class Radiograph:
    """One X-ray file and its header. All attributes but view and sex may identify a patient.

    Attributes:
        patient: Patient ID; "" for PNG, JPEG and NPY.
        time: of the exposure, None where date or time of day is missing.
        view: PA, AP, lateral, or "" if unknown.
        sex: M, F, O or "".
        uid: SOPInstanceUID.
        problem: why it cannot be used, such as another body part; "" if it can.
    """

    path: Path
    patient: str = ""
    study_uid: str = ""
    accession: str = ""
    time: datetime | None = None
    view: str = ""
    sex: str = ""
    uid: str = ""
    exposure: Exposure = field(default=Exposure(), repr=False)
    problem: str = ""


@dataclass
class RadiographImage:
    """An image in `[0, 1]`, bright bone, row 0 superior, column 0 the patient's right.

    Attributes:
        spacing: mm of a pixel (rows, columns) at the detector, None if unknown.
        view: PA, AP or "".
        notes: assumptions and changes, without anything that identifies the patient.
    """

    image: Float[np.ndarray, "h w"]
    spacing: tuple[float, float] | None
    view: str
    notes: list[str]


def find_radiographs(
    source: str | Path, exclude: Iterable[Path] = (), pool: Executor | None = None
) -> list[Radiograph]:
    """Every X-ray under `source`, sorted by path: DICOM by header (no pixels are read), PNG, JPEG and 2D NPY.

    Copies of an image count once. Of an exposure stored FOR PROCESSING and FOR PRESENTATION only the latter is kept.

    Args:
        exclude: folders to leave out.
        pool: processes that read headers, one folder each; None reads in this process.
    """
    folders = list(folders_of(Path(source), exclude={str(Path(p).resolve()) for p in exclude}))
    parts = pool.map(scan_radiographs, folders, chunksize=4) if pool else map(scan_radiographs, folders)
    found = sorted((one for part in parts for one in part), key=lambda one: str(one.path))
    first: dict[str, Radiograph] = {}
    for one in found:
        first.setdefault(one.uid or str(one.path), one)
    return _without_raw_versions(list(first.values()))


def scan_radiographs(paths: list[str]) -> list[Radiograph]:
    """The X-rays among files."""
    found = []
    for path in map(Path, paths):
        ending = path.suffix.lower()
        if ending in PICTURE_ENDINGS and not has_dicom_mark(path):
            if ending != ".npy" or _is_flat(path):
                found.append(Radiograph(path))
        elif (header := _read_header(path)) is not None:
            try:
                found.append(radiograph_of(path, header))
            except VALUE_ERRORS:
                found.append(Radiograph(path, problem="unreadable header"))
    return found


def radiograph_of(path: str | Path, header: pydicom.Dataset) -> Radiograph:
    """The X-ray of a file with this header."""
    part = str(header.get("BodyPartExamined", "") or "").strip().upper()
    other_part = part and not any(word in part for word in CHEST)
    sex = str(header.get("PatientSex", "") or "").strip().upper()
    sources = header.get("SourceImageSequence") or ()
    return Radiograph(
        path=Path(path),
        patient=str(header.get("PatientID", "") or "").strip(),
        study_uid=str(header.get("StudyInstanceUID", "") or ""),
        accession=str(header.get("AccessionNumber", "") or "").strip(),
        time=time_of(header),
        view=view_of(header),
        sex=sex if sex in ("M", "F", "O") else "",
        uid=str(header.get("SOPInstanceUID", "") or ""),
        exposure=Exposure(
            uid=str(header.get("IrradiationEventUID", "") or ""),
            made_from=tuple(str(item.get("ReferencedSOPInstanceUID", "")) for item in sources),
            for_processing=str(header.get("PresentationIntentType", "")).strip().upper() == "FOR PROCESSING",
        ),
        problem="Body Part Examined is not the chest" if other_part else "",
    )


def read_radiograph(
    path: str | Path, trim_border: bool = False, mask_text: bool = False, view: str = ""
) -> RadiographImage:
    """One X-ray in its own resolution, in the grey scale of every X-ray (`dataset.imaging.drr.scale_xray`).

    Args:
        trim_border: cut off borders without anatomy (collimated, or white with burned-in text).
        mask_text: fill burned-in text; a heuristic, so check the images before you share them.
        view: PA or AP, assigned by the user; it overrides the header's view, a lateral too.

    Raises:
        UserError: a file that `dataset.io.xray.read_xray_image` refuses, a lateral, Burned In Annotation YES without
            `mask_text`, or with it where no text was found.
    """
    picture = read_xray_image(path)
    notes = list(picture.notes)
    if picture.view == "lateral" and not view:
        raise UserError(f"{path}: a lateral (or oblique) view; give a frontal one, or assign PA or AP in pairs=")
    if view and view != picture.view:
        notes.append(f"view assigned: {view}")
    if picture.burned_in and not mask_text:
        raise UserError(
            f"{path}: Burned In Annotation is YES: text in the picture may name the patient; mask_text=true"
        )
    if mask_text:
        image, count = without_text(picture.image)
        if picture.burned_in and not count:
            raise UserError(f"{path}: Burned In Annotation is YES but no text was found to mask; mask it by hand")
        picture.image = image
        notes += [f"{count} places with text masked"] * bool(count)
    if trim_border:
        rows, columns = without_border(picture.image)
        cut = picture.image.size - picture.image[rows, columns].size
        picture.inside = None if picture.inside is None else picture.inside[rows, columns]
        picture.image = picture.image[rows, columns]
        notes += [f"borders cut off ({100 * cut // (cut + picture.image.size)} % of the picture)"] * bool(cut)
    try:
        image = scale_xray_image(picture).numpy()
    except ValueError as error:
        raise UserError(f"{path}: {error}; export the X-ray again") from error
    return RadiographImage(image, picture.spacing, view or picture.view, notes)


def write_radiograph(image: RadiographImage, path: str | Path) -> None:
    """Write a grey PNG of 16 bits without metadata, atomically."""
    from PIL import Image

    with atomic_path(path) as temporary:
        Image.fromarray(np.rint(image.image * 65535.0).astype(np.uint16)).save(temporary)


def _read_header(path: Path) -> pydicom.Dataset | None:
    """The header of a radiograph; None for every other file."""
    header = read_tags(path, TAGS)
    return header if header is not None and is_radiograph(header) else None


def _is_flat(path: Path) -> bool:
    """Whether an NPY file holds one 2D image, by its header."""
    try:
        shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
    except (ValueError, OSError, EOFError, AttributeError):
        return False
    return len(shape) == 2 or (len(shape) == 3 and (shape[0] in (1, 3) or shape[-1] in (1, 3)))


def _without_raw_versions(found: list[Radiograph]) -> list[Radiograph]:
    shown = [one.exposure for one in found if not one.exposure.for_processing]
    sources = {uid for exposure in shown for uid in exposure.made_from if uid}
    exposures = {exposure.uid for exposure in shown if exposure.uid}
    kept = [
        one
        for one in found
        if not (one.exposure.for_processing and (one.uid in sources or one.exposure.uid in exposures))
    ]
    if len(kept) < len(found):
        log.info("%d X-rays FOR PROCESSING are left out: a version FOR PRESENTATION exists", len(found) - len(kept))
    return kept
