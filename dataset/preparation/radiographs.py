"""Radiographs in a folder tree, found by their headers, and the image of one for a training set."""

import logging
from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from jaxtyping import Float

from common.errors import UserError
from common.files import atomic_path
from dataset.io.dicom_headers import VALUE_ERRORS, Identity, identity_of, read_tags
from dataset.io.dicom_series import folders_of
from dataset.io.file_kind import kind_of
from dataset.io.xray import read_xray_image, scale_xray_image
from dataset.io.xray_dicom import MIRRORED, XrayImage, is_radiograph, view_of
from dataset.preparation import borders_and_text

CHEST = ("CHEST", "THORAX", "LUNG", "RIBS", "STERNUM", "PULMO")  # words of Body Part Examined
PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".npy")
TAGS = [
    "SOPClassUID", "SOPInstanceUID", "Modality", "PatientID", "PatientSex",
    "StudyDate", "StudyTime", "SeriesDate", "SeriesTime", "AcquisitionDate", "AcquisitionTime",
    "AcquisitionDateTime", "ContentDate", "ContentTime", "AccessionNumber", "StudyInstanceUID", "SeriesInstanceUID",
    "SeriesDescription", "ProtocolName", "ViewPosition", "ViewCodeSequence", "PatientOrientation", "BodyPartExamined",
    "PresentationIntentType", "IrradiationEventUID", "SourceImageSequence", "Rows",
]  # fmt: skip

log = logging.getLogger(__name__)


@dataclass
class Radiograph:
    """One X-ray file and its header, which may identify a patient."""

    path: Path
    identity: Identity = Identity()  # empty for PNG, JPEG and NPY
    view: str = ""  # PA, AP, lateral, other (oblique, decubitus, lordotic), or "" if unknown
    uid: str = ""  # SOPInstanceUID
    event_uid: str = ""  # IrradiationEventUID, the same in all stored versions of an exposure
    made_from: tuple[str, ...] = ()  # SOP instances that the image was made from
    for_processing: bool = False  # the detector's own values (Presentation Intent Type FOR PROCESSING)
    problem: str = ""  # why it cannot be used, such as another body part


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
    parts = pool.map(_scan, folders, chunksize=4) if pool else map(_scan, folders)
    first: dict[str, Radiograph] = {}
    for one in sorted((one for part in parts for one in part), key=lambda one: str(one.path)):
        first.setdefault(one.uid or str(one.path), one)
    shown = [one for one in first.values() if not one.for_processing]
    presented = {uid for one in shown for uid in (*one.made_from, one.event_uid)} - {""}
    kept = [one for one in first.values() if not (one.for_processing and {one.uid, one.event_uid} & presented)]
    if len(kept) < len(first):
        log.info("%d X-rays FOR PROCESSING are left out: a version FOR PRESENTATION exists", len(first) - len(kept))
    return kept


def _scan(paths: list[str]) -> list[Radiograph]:
    """The X-rays among files."""
    found = []
    for path in map(Path, paths):
        ending = path.suffix.lower()
        if ending in PICTURE_ENDINGS and kind_of(path) != "dicom":
            if ending != ".npy" or _is_flat(path):
                found.append(Radiograph(path))
        elif (header := read_tags(path, TAGS)) is not None and is_radiograph(header):
            try:
                found.append(_radiograph(path, header))
            except VALUE_ERRORS:
                found.append(Radiograph(path, problem="unreadable header"))
    return found


def _radiograph(path: Path, header: pydicom.Dataset) -> Radiograph:
    part = str(header.get("BodyPartExamined") or "").strip().upper()
    other_part = part and not any(word in part for word in CHEST)
    sources = header.get("SourceImageSequence") or ()
    return Radiograph(
        path,
        identity_of(header),
        view=view_of(header),
        uid=str(header.get("SOPInstanceUID") or ""),
        event_uid=str(header.get("IrradiationEventUID") or ""),
        made_from=tuple(str(item.get("ReferencedSOPInstanceUID", "")) for item in sources),
        for_processing=str(header.get("PresentationIntentType", "")).strip().upper() == "FOR PROCESSING",
        problem="Body Part Examined is not the chest" if other_part else "",
    )


def read_radiograph(path: str | Path, trim_border: bool = False, mask_text: bool = False, view: str = "") -> XrayImage:
    """One X-ray in its own resolution, `[0, 1]`, in the grey scale of every X-ray (`dataset.imaging.drr.scale_xray`).

    It is NaN where it is unknown.

    Args:
        trim_border: cut off borders without anatomy (collimated, or white with burned-in text).
        mask_text: fill burned-in text; a heuristic, so check the images before you share them.
        view: PA or AP, assigned by the user; it overrides the header's view, a lateral or oblique too.

    Raises:
        UserError: a file that `dataset.io.xray.read_xray_image` refuses, a lateral or oblique, Burned In Annotation
            YES without `mask_text`, or with it where no text was found.
    """
    picture = read_xray_image(path)
    if picture.view in ("lateral", "other") and not view:
        raise UserError(f"{path}: a lateral (or oblique) view; give a frontal one, or assign PA or AP in pairs=")
    if view and view != picture.view:
        picture.view = view
        if MIRRORED in picture.notes:  # as a lateral
            picture.image = picture.image[:, ::-1].copy()
            picture.inside = None if picture.inside is None else picture.inside[:, ::-1].copy()
            picture.notes.remove(MIRRORED)
        picture.notes.append(f"view assigned: {view}")
    if picture.burned_in and not mask_text:
        raise UserError(
            f"{path}: Burned In Annotation is YES: text in the picture may name the patient; mask_text=true"
        )
    if mask_text:
        picture.image, count = borders_and_text.mask_text(picture.image)
        if picture.burned_in and not count:
            raise UserError(f"{path}: Burned In Annotation is YES but no text was found to mask; mask it by hand")
        picture.notes += [f"{count} places with text masked"] * bool(count)
    if trim_border:
        rows, columns = borders_and_text.trim_border(picture.image)
        whole = picture.image.size
        picture.inside = None if picture.inside is None else picture.inside[rows, columns]
        picture.image = picture.image[rows, columns]
        cut = whole - picture.image.size
        picture.notes += [f"borders cut off ({100 * cut // whole} % of the picture)"] * bool(cut)
    try:
        picture.image = scale_xray_image(picture).numpy()
    except ValueError as error:
        raise UserError(f"{path}: {error}; export the X-ray again") from error
    return picture


def write_radiograph(image: Float[np.ndarray, "h w"], path: str | Path) -> None:
    """Write an image in `[0, 1]` as a grey PNG of 16 bits without metadata, atomically.

    NaN, which is unknown, becomes the level 0, marked as transparent (chunk tRNS); other levels start at 1 then.
    """
    from PIL import Image

    levels, unknown = np.rint(np.nan_to_num(image) * 65535.0).astype(np.uint16), np.isnan(image)
    marks = {}
    if unknown.any():
        levels, marks = np.where(unknown, 0, np.maximum(levels, 1)).astype(np.uint16), {"transparency": 0}
    with atomic_path(path) as temporary:
        Image.fromarray(levels).save(temporary, **marks)


def _is_flat(path: Path) -> bool:
    """Whether an NPY file holds one 2D image, by its header."""
    try:
        shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
    except (ValueError, OSError, EOFError, AttributeError):
        return False
    return len(shape) == 2 or (len(shape) == 3 and (shape[0] in (1, 3) or shape[-1] in (1, 3)))
