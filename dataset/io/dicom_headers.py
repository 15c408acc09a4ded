"""DICOM headers of CT files: identity and acquisition of the series, position of each slice or frame."""

import contextlib
import struct
import zlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.valuerep import STR_VR

from common.errors import UserError
from common.file_limits import expect_dicom_size
from dataset.io.file_kind import kind_of

# pydicom's errors for a value of the wrong type, such as a Slice Thickness of "xxxx"
VALUE_ERRORS = (BytesLengthException, ValueError, TypeError, KeyError, AttributeError, NotImplementedError,
               IndexError, OverflowError)  # fmt: skip
# and for files that are not DICOM, truncated or damaged
HEADER_ERRORS = (*VALUE_ERRORS, InvalidDicomError, OSError, EOFError, RecursionError, MemoryError, struct.error,
                zlib.error)  # fmt: skip
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
MULTIFRAME = (f"{CT_IMAGE}.1", f"{CT_IMAGE}.2")  # enhanced CT, its legacy conversion
TAGS = [
    "SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "Modality", "ImageType", "PatientID", "PatientAge",
    "PatientSex", "PatientBirthDate", "StudyDate", "StudyTime", "SeriesDate", "SeriesTime", "AcquisitionDate",
    "AcquisitionTime", "AcquisitionDateTime", "ContentDate", "ContentTime", "AccessionNumber", "StudyInstanceUID",
    "SeriesInstanceUID", "SeriesDescription", "ProtocolName", "ContrastBolusAgent", "ContrastBolusRoute",
    "ConvolutionKernel", "SliceThickness", "GantryDetectorTilt", "AcquisitionNumber", "TemporalPositionIdentifier",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "BurnedInAnnotation", "SamplesPerPixel",
]  # fmt: skip


@dataclass(frozen=True)
class Identity:
    """Header values that name a CT or X-ray, its patient and its time, "" if absent. All may identify the patient."""

    patient: str = ""
    study_uid: str = ""
    series_uid: str = ""
    accession: str = ""
    time: datetime | None = None  # of the acquisition, else of the series, content or study
    age: str = ""
    sex: str = ""
    birth_date: str = ""
    study_date: str = ""
    split: str = ""  # train, val or test, by the folders above the files


@dataclass(frozen=True)
class CtAcquisition:
    """The header values of acquisition and reconstruction of a CT."""

    description: str = ""  # series description and protocol name
    contrast: str = ""  # contrast agent or route
    kernel: str = ""
    thickness: float | None = None  # mm
    image_type: tuple[str, ...] = ()
    tilt: float = 0.0  # degrees of gantry tilt in the header; the slice positions decide whether the stack is sheared
    burned_in: bool = False  # Burned In Annotation is YES: the pixels contain text


class Slice(NamedTuple):
    """One slice (or frame) of a series."""

    path: str
    frame: int  # index in a multi-frame file, else 0
    uid: str
    position: tuple[float, ...]  # LPS mm of the first pixel; empty if absent
    layout: tuple  # orientation, pixel spacing, rows, columns: the same within a stack, up to rounding
    phase: tuple  # acquisition, temporal position, kernel, image type: separates stacks at the same positions
    other: str  # what it is if no slice of a volume: localiser, colour image; else ""

    @property
    def kind(self) -> tuple:
        """Key of the slices that share one header."""
        return self.layout, self.phase


def read_dicom(path: str | Path, force: bool = True, **options) -> pydicom.Dataset:
    """The elements of a DICOM file that have a value; `force` reads files without the prefix, `options` are pydicom's.

    Raises `HEADER_ERRORS` or UserError.
    """
    expect_dicom_size(path)
    ds = pydicom.dcmread(path, force=force, **options)
    _drop_empty(ds)
    return ds


def read_tags(path: str | Path, tags: list[str]) -> pydicom.Dataset | None:
    """The given elements of a DICOM header, or None if the file is not DICOM."""
    try:
        if kind_of(path) != "dicom":
            return None
        return read_dicom(path, stop_before_pixels=True, specific_tags=tags)
    except (*HEADER_ERRORS, UserError):
        return None


def read_ct_header(path: str | Path) -> pydicom.Dataset | None:
    """The header of a CT image without its pixels, or None for any other file."""
    with contextlib.suppress(*VALUE_ERRORS):
        ds = read_tags(path, TAGS)
        return ds if ds is not None and is_ct(ds) else None
    return None


def is_ct(ds: pydicom.Dataset) -> bool:
    """Whether Modality is CT, or the SOP class where Modality is empty."""
    modality = str(ds.get("Modality") or "").strip().upper()
    return modality == "CT" or (not modality and _sop_class(ds) in (CT_IMAGE, *MULTIFRAME))


def is_multiframe(ds: pydicom.Dataset) -> bool:
    """Whether a CT has its frames in functional groups."""
    return _sop_class(ds) in MULTIFRAME


def slices_of(ds: pydicom.Dataset, path: str | Path) -> list[Slice]:
    """The slice of a header, or the frames of a multi-frame file."""
    uid = str(ds.get("SOPInstanceUID", ""))
    kinds = tuple(str(v).upper() for v in _several(ds.get("ImageType")))
    phase = (str(ds.get("AcquisitionNumber")), str(ds.get("TemporalPositionIdentifier")), kernel_of(ds), kinds)
    other = "localiser" if "LOCALIZER" in kinds else "colour image" if (ds.get("SamplesPerPixel") or 1) > 1 else ""
    size = tuple(None if ds.get(side) is None else int(ds.get(side)) for side in ("Rows", "Columns"))
    if not is_multiframe(ds):
        position = _numbers(ds.get("ImagePositionPatient"))
        layout = (_numbers(ds.get("ImageOrientationPatient")), _numbers(ds.get("PixelSpacing")), *size)
        return [Slice(str(path), 0, uid, position, layout, phase, other)]
    slices = []
    shared = _first(ds.get("SharedFunctionalGroupsSequence"))
    for i, frame in enumerate(ds.get("PerFrameFunctionalGroupsSequence") or []):
        orientation = group_item(frame, shared, "PlaneOrientationSequence").get("ImageOrientationPatient")
        spacing = group_item(frame, shared, "PixelMeasuresSequence").get("PixelSpacing")
        position = _numbers(group_item(frame, shared, "PlanePositionSequence").get("ImagePositionPatient"))
        layout = (_numbers(orientation), _numbers(spacing), *size)
        slices.append(Slice(str(path), i, f"{uid}.{i}", position, layout, phase, other))
    return slices


def group_item(frame: pydicom.Dataset, shared: pydicom.Dataset, keyword: str) -> pydicom.Dataset:
    """A functional group of a frame: its own, else the shared one, else empty."""
    return _first(frame.get(keyword)) or _first(shared.get(keyword)) or pydicom.Dataset()


def kernel_of(ds: pydicom.Dataset) -> str:
    """Convolution kernel as one string; Siemens adds a second value for the iteration strength."""
    return "\\".join(str(v) for v in _several(ds.get("ConvolutionKernel")))


def normal_of(orientation: tuple[float, ...]) -> np.ndarray:
    """Unit normal (LPS) of an image with this Image Orientation (Patient)."""
    normal = np.cross(orientation[:3], orientation[3:])
    return normal / max(float(np.linalg.norm(normal)), 1e-12)


def time_of(ds: pydicom.Dataset) -> datetime | None:
    """Date and time of the acquisition, else of the series, content or study; None if unknown."""
    pairs = [(str(ds.get("AcquisitionDateTime", ""))[:8], str(ds.get("AcquisitionDateTime", ""))[8:14])]
    pairs += [(ds.get(f"{what}Date"), ds.get(f"{what}Time")) for what in ("Acquisition", "Series", "Content", "Study")]
    for date, time in pairs:
        if date and time:
            with contextlib.suppress(ValueError):
                return datetime.strptime(f"{date}{str(time).partition('.')[0].ljust(6, '0')}", "%Y%m%d%H%M%S")
    return None


def header_of(ds: pydicom.Dataset) -> tuple[Identity, CtAcquisition]:
    """Identity and acquisition of the series of a CT header."""
    shared = _first(ds.get("SharedFunctionalGroupsSequence"))
    thickness = ds.get("SliceThickness") or group_item(shared, shared, "PixelMeasuresSequence").get("SliceThickness")
    acquisition = CtAcquisition(
        description=f"{ds.get('SeriesDescription') or ''} {ds.get('ProtocolName') or ''}".strip(),
        contrast=str(ds.get("ContrastBolusAgent") or ds.get("ContrastBolusRoute") or "").strip(),
        kernel=kernel_of(ds),
        thickness=float(thickness) if thickness else None,
        image_type=tuple(str(v).upper() for v in _several(ds.get("ImageType"))),
        tilt=float(ds.get("GantryDetectorTilt") or 0.0),
        burned_in=str(ds.get("BurnedInAnnotation") or "").upper() == "YES",
    )
    return identity_of(ds), acquisition


def identity_of(ds: pydicom.Dataset) -> Identity:
    """Patient, study and time of a CT or X-ray header."""
    return Identity(
        patient=str(ds.get("PatientID") or "").strip(),
        study_uid=str(ds.get("StudyInstanceUID") or ""),
        series_uid=str(ds.get("SeriesInstanceUID") or ""),
        accession=str(ds.get("AccessionNumber") or "").strip(),
        time=time_of(ds),
        age=str(ds.get("PatientAge") or ""),
        sex=str(ds.get("PatientSex") or "").strip().upper(),
        birth_date=str(ds.get("PatientBirthDate") or ""),
        study_date=str(ds.get("StudyDate") or ""),
    )


def _several(value) -> list:
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, (list, tuple, pydicom.multival.MultiValue)) else [value]


def _numbers(value) -> tuple[float, ...]:
    try:
        return tuple(float(v) for v in _several(value))
    except (TypeError, ValueError):
        return ()


def _drop_empty(ds: pydicom.Dataset) -> None:
    """Removes elements without value, as anonymisers leave them, and sequences of empty items."""
    for tag in list(ds.keys()):
        raw = ds.get_item(tag)
        kind = raw.VR or (dictionary_VR(tag) if dictionary_has_tag(tag) else "UN")
        if kind == "SQ":
            items = [item for item in ds[tag].value or () if item]
            for item in items:
                _drop_empty(item)
            if not any(items):
                del ds[tag]
        elif raw.value is None or (kind in STR_VR and _is_blank(raw.value)) or _length(raw.value) == 0:
            del ds[tag]


def _is_blank(value) -> bool:
    return isinstance(value, bytes | str) and not value.strip(b" \0\\" if isinstance(value, bytes) else " \0\\")


def _length(value) -> int:
    return len(value) if hasattr(value, "__len__") else 1


def _sop_class(ds: pydicom.Dataset) -> str:
    return str(ds.get("SOPClassUID") or getattr(ds, "file_meta", {}).get("MediaStorageSOPClassUID") or "")


def _first(sequence) -> pydicom.Dataset:
    return sequence[0] if sequence else pydicom.Dataset()
