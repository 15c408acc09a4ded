"""Reader of DICOM radiographs in standard display: bright bone, upright, the patient's right or front at column 0.

The steps of DICOM PS3.3 in order: modality LUT or rescale (C.11.1), logarithm of an image FOR PROCESSING that is
linear in the X-ray intensity (C.8.11.3.1.2), VOI LUT or window (C.11.2), inversion for MONOCHROME1 or Presentation LUT
Shape INVERSE (C.7.6.3.1.2, C.11.6), flips and transposition by Patient Orientation (C.7.6.1.1.1).
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
from jaxtyping import Bool, Float, Int
from pydicom.multival import MultiValue
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from common.errors import UserError
from common.file_limits import expect_pixels
from dataset.io.dicom_headers import HEADER_ERRORS, read_dicom
from dataset.io.dicom_pixels import stored_values
from dataset.io.file_kind import kind_of
from dataset.io.xray_exposure import exposed

MODALITIES = ("CR", "DX", "DR", "RG", "XR")  # DR is in use though not a defined term
# SOP classes of computed radiography and of digital X-ray for presentation and for processing
SOP_CLASSES = ("1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1.1")
FRONTAL = {"PA": "PA", "AP": "AP", "PA ERECT": "PA", "AP ERECT": "AP", "AP SUPINE": "AP", "POSTERO-ANTERIOR": "PA",
           "POSTEROANTERIOR": "PA", "ANTERO-POSTERIOR": "AP", "ANTEROPOSTERIOR": "AP"}  # fmt: skip
LATERAL = ("LL", "RL", "LAT", "LLAT", "RLAT", "LATERAL", "LEFT LATERAL", "RIGHT LATERAL")
# decubitus, obliques, lordotic: no model takes them
OTHER = ("LLD", "RLD", "LLO", "RLO", "LAO", "RAO", "LPO", "RPO", "OBLIQUE", "DECUBITUS", "LORDOTIC")
POSITIONS = FRONTAL | dict.fromkeys(LATERAL, "lateral") | dict.fromkeys(OTHER, "other")
# View Code Sequence, PS3.16 CID 4010: SNOMED CT and SNOMED RT codes
VIEW_CODES = {"272479007": "PA", "R-10214": "PA", "399348003": "AP", "R-10206": "AP", "399067008": "lateral",
              "399173006": "lateral", "R-10236": "lateral", "399198007": "lateral", "R-10232": "lateral"}  # fmt: skip
MIRRORED = "front and back exchanged"  # note of a lateral
WORDS = {"PA": "PA", "AP": "AP", "LAT": "lateral", "LATERAL": "lateral", "LL": "lateral", "RL": "lateral"}


@dataclass
class XrayImage:
    """A grey X-ray with the values of its header."""

    image: Float[np.ndarray, "h w"]  # bright bone, row 0 superior, column 0 the patient's right or front; any scale
    view: str = ""  # PA, AP, lateral, other (oblique, decubitus, lordotic), or "" if unknown
    spacing: tuple[float, float] | None = None  # mm of a pixel (rows, columns) at the detector
    inside: Bool[np.ndarray, "h w"] | None = None  # True where the detector was exposed; None means everywhere
    burned_in: bool = False  # Burned In Annotation is YES: the pixels may contain names or dates
    notes: list[str] = field(default_factory=list)  # assumptions and corrections, without identifiers of the patient


def read_dicom_xray(path: str | Path) -> XrayImage:
    """The image of one radiograph; UserError if it is damaged, another modality, in colour or of several frames."""
    try:
        return _read(path)
    except (*HEADER_ERRORS, RuntimeError) as error:  # pydicom parses many values only on access
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UserError(f"{path}: not readable as DICOM ({reason}); export it uncompressed or as PNG") from error


def _read(path: str | Path) -> XrayImage:
    header = read_dicom(path, force=kind_of(path) == "dicom")  # also without preamble
    if not is_radiograph(header):
        found = str(header.get("Modality", "") or "").strip() or "missing"
        raise UserError(
            f"{path}: Modality {found} where an X-ray has {', '.join(MODALITIES)}; give a chest X-ray, "
            "or export it as PNG if it is one"
        )
    if "PixelData" not in header:
        raise UserError(f"{path}: a DICOM file without pixel data; give the image itself")
    photometric = str(header.get("PhotometricInterpretation") or "").strip().upper()
    if not photometric:
        raise UserError(
            f"{path}: Photometric Interpretation is empty, so black and white may be exchanged; enter MONOCHROME1 or "
            "MONOCHROME2, or export it as PNG"
        )
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise UserError(f"{path}: {photometric} where an X-ray is grey; export it as MONOCHROME2")
    frames = int(header.get("NumberOfFrames", 1) or 1)
    if frames > 1:
        raise UserError(f"{path}: {frames} frames where an X-ray is one image; export a single frame")
    expect_pixels([header.get("Rows", 0) or 0, header.get("Columns", 0) or 0], path)
    _widen_tables(header)
    stored = _stored_values(header, path)
    image, notes = _displayed(stored, header, photometric)
    inside = exposed(stored, header)
    view, orientation = view_of(header), header.get("PatientOrientation")
    image, turns = upright(image, orientation, view)
    if inside is not None:
        inside = upright(inside, orientation, view)[0]
        image = np.where(inside, image, image[inside].min())
    transposed = "rows and columns exchanged" in turns
    burned_in = str(header.get("BurnedInAnnotation", "")).strip().upper() == "YES"
    if "ConversionType" in header and not header.get("BurnedInAnnotation"):
        notes.append("scanned or captured from a screen: look for text in the image")
    return XrayImage(image, view, _spacing(header, transposed), inside, burned_in, notes + turns)


def has_image(path: Path) -> bool:
    """Whether a DICOM file has pixels, unlike reports, presentation states and DICOMDIR; true if it is damaged."""
    try:
        header = read_dicom(path, stop_before_pixels=True)
        return "Rows" in header or not ("SOPClassUID" in header or "DirectoryRecordSequence" in header)
    except (*HEADER_ERRORS, UserError):
        return True  # the reader of the image says what is wrong with it


def is_radiograph(header: pydicom.Dataset) -> bool:
    """Whether Modality or SOP class is that of a radiograph; mammograms are not."""
    modality = str(header.get("Modality", "") or "").strip().upper()
    return modality in MODALITIES or str(header.get("SOPClassUID", "")) in SOP_CLASSES


def view_of(header: pydicom.Dataset) -> str:
    """PA, AP, lateral, other (oblique, decubitus, lordotic), or "" if unknown.

    Sources in order: View Position, view code, Patient Orientation (an anterior or posterior axis means lateral), one
    word such as PA in the series description. A study description can name several views, so it does not count.
    """
    position = re.sub(r"\s+", " ", str(header.get("ViewPosition", "") or "")).strip().upper()
    if position in POSITIONS:
        return POSITIONS[position]
    if set(position.split()) & set(OTHER):  # such as PA OBLIQUE
        return "other"
    for item in header.get("ViewCodeSequence") or []:
        if (code := str(item.get("CodeValue", ""))) in VIEW_CODES:
            return VIEW_CODES[code]
    orientation = _orientation(header.get("PatientOrientation"))
    if orientation and set("".join(axis[0] for axis in orientation)) & set("AP"):
        return "lateral"
    description = " ".join(str(header.get(name, "") or "") for name in ("SeriesDescription", "ProtocolName"))
    views = {WORDS[word] for word in re.findall(r"[A-Z]+", description.upper()) if word in WORDS}
    return views.pop() if len(views) == 1 else ""


def upright(image: np.ndarray, orientation, view: str = "") -> tuple[np.ndarray, list[str]]:
    """The image with rows toward the feet and columns toward the patient's left, of a lateral toward the back.

    `orientation` is Patient Orientation: the direction of a row, then of a column, such as `["L", "F"]`; the first
    letters count. The list contains notes on the changes. Without a valid orientation, or with one that contradicts
    the `view` PA or AP, the image is unchanged.
    """
    axes = _orientation(orientation)
    if axes is None:
        return image, ["no Patient Orientation: taken as displayed"]
    row, column = axes[0][0], axes[1][0]
    if view in ("PA", "AP") and {row, column} & set("AP"):
        return image, [f"Patient Orientation contradicts the view {view}: taken as displayed"]
    notes = []
    if row in "FH" and column not in "FH":
        image, row, column = image.T, column, row
        notes.append("rows and columns exchanged")
    if row in "FH" or column not in "FH":
        return image, [*notes, "invalid Patient Orientation: taken as displayed"]
    if row in "RA":
        image = image[:, ::-1]
        notes.append("left and right exchanged" if row == "R" else MIRRORED)
    if column == "H":
        image = image[::-1]
        notes.append("turned upside down")
    return np.ascontiguousarray(image), notes


def _orientation(value) -> list[str] | None:
    axes = [str(axis).strip().upper() for axis in value] if value and not isinstance(value, str) else []
    return axes if len(axes) == 2 and all(axis and axis[0] in "LRFHAP" for axis in axes) else None


def _stored_values(header: pydicom.Dataset, path) -> Int[np.ndarray, "h w"]:
    pixels = stored_values(header, path, path)
    if pixels.ndim != 2:
        raise UserError(f"{path}: shape {list(pixels.shape)} where an X-ray is one grey image; export a single frame")
    return pixels


def _displayed(stored: np.ndarray, header: pydicom.Dataset, photometric: str) -> tuple[np.ndarray, list[str]]:
    values = apply_modality_lut(stored, header)
    relation = str(header.get("PixelIntensityRelationship", "")).strip().upper()
    processing = str(header.get("PresentationIntentType", "")).strip().upper() == "FOR PROCESSING"
    if processing and relation in ("LIN", "LOG"):
        # sign 1: small values are low intensity, as behind bone; without it the display polarity decides
        sign = int(header.get("PixelIntensityRelationshipSign", 0) or (1 if photometric == "MONOCHROME1" else -1))
        values = values.astype(np.float64)
        if relation == "LOG":
            return (-sign * values).astype(np.float32), ["FOR PROCESSING: logarithmic already"]
        top = float(2 ** int(header.get("BitsStored", 16)) - 1) if values.min() >= 0 else float(values.max())
        intensity = values if sign == 1 else max(top, float(values.max())) - values
        # at least one count: zero would be infinite attenuation
        return -np.log(np.maximum(intensity, 1.0)).astype(np.float32), ["FOR PROCESSING: logarithm of the intensity"]
    image = _through_voi(values, header).astype(np.float32)
    inverse = str(header.get("PresentationLUTShape", "")).strip().upper() == "INVERSE"
    # one inversion for both: the DX modules require INVERSE with MONOCHROME1
    if photometric == "MONOCHROME1" or inverse:
        return image.max() - image, ["inverted to bright bone"]
    return image, []


def _through_voi(values: np.ndarray, header: pydicom.Dataset) -> np.ndarray:
    if not header.get("VOILUTSequence"):
        return apply_voi_lut(values, header) if _has_window(header) else values
    count, first, _ = (int(v) for v in header.VOILUTSequence[0].LUTDescriptor)
    return apply_voi_lut(np.clip(np.rint(values).astype(np.int64), first, first + (count or 2**16) - 1), header)


def _has_window(header: pydicom.Dataset) -> bool:
    """Whether the first window has a width that is possible (C.11.2.1.2.1); others are as absent."""
    width = header.get("WindowWidth")
    width = width[0] if isinstance(width, MultiValue) and len(width) else width
    linear = str(header.get("VOILUTFunction") or "LINEAR").strip().upper() == "LINEAR"
    return not isinstance(width, int | float) or (width >= 1 if linear else width > 0)


def _widen_tables(header: pydicom.Dataset) -> None:
    """Entries of LUTs as 16 bits: pydicom indexes in their type, and knows 8 and 16 bits only."""
    for name in ("ModalityLUTSequence", "VOILUTSequence"):
        for table in header.get(name) or ():
            count, first, bits = (int(v) for v in table.LUTDescriptor)
            table.LUTDescriptor = [count, first, max(bits, 16)]


def _spacing(header: pydicom.Dataset, transposed: bool) -> tuple[float, float] | None:
    for name in ("ImagerPixelSpacing", "PixelSpacing"):  # the second may be calibrated
        value = header.get(name)
        if value is not None and not isinstance(value, str) and len(value) == 2 and min(float(v) for v in value) > 0:
            rows, columns = (float(v) for v in value)
            return (columns, rows) if transposed else (rows, columns)
    return None
