"""Writes a generated volume as a DICOM series (CT Image Storage) that is marked as synthetic.

Names, dates and identifiers are new. Every slice has the word SYNTHETIC in an overlay plane (PS3.3 C.9.2); its HU are
unchanged.
"""

import datetime
import secrets
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from common.files import atomic_path
from dataset.imaging.geometry import nifti_affine
from dataset.imaging.hu_window import Window
from evaluation.visualization.slices import font_file

WORD = "SYNTHETIC"
DESCRIPTION = "SYNTHETIC CT - not for diagnosis"
STORED = (-32768, 32767)  # int16: stored values are HU
SMALLEST_WORD = 7  # points; smaller letters are illegible
FIRST_WINDOW = Window(-1000.0, 1000.0)


def series(hu, spacing, centre=(0.0, 0.0, 0.0), window: Window = FIRST_WINDOW, comment: str = "") -> list[FileDataset]:
    """One DICOM data set per axial slice, inferior first, with new study, series and frame of reference UIDs.

    Args:
        hu: `(D, H, W)`, rounded to integers; ValueError if not 3-dimensional or not finite.
        spacing: mm `(D, H, W)`.
        centre: RAS mm of the volume's centre, as in `dataset.imaging.volume.Volume`.
        window: HU that a viewer shows first.
        comment: Image Comments, without private data.
    """
    hu = np.asarray(hu, dtype=np.float32)
    if hu.ndim != 3 or not np.isfinite(hu).all():
        raise ValueError(f"needs a volume (D, H, W) of finite HU, found shape {hu.shape}")
    stored = np.rint(hu.clip(*STORED)).astype("<i2")
    shared, overlay, slices = _series_attributes(comment), word_bits(*hu.shape[1:]), []
    affine = nifti_affine(spacing, centre, hu.shape)
    for number, pixels in enumerate(stored):
        slice_ = FileDataset(None, {}, file_meta=FileMetaDataset(), preamble=b"\0" * 128)
        slice_.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        for name, value in shared.items():
            setattr(slice_, name, value)
        # from RAS to the LPS of DICOM
        x, y, z = (affine @ [0, 0, number, 1])[:3] * (-1, -1, 1)
        slice_.SOPInstanceUID, slice_.InstanceNumber = generate_uid(), number + 1
        slice_.ImagePositionPatient, slice_.SliceLocation = [_decimal(v) for v in (x, y, z)], _decimal(z)
        slice_.PixelSpacing = [_decimal(spacing[1]), _decimal(spacing[2])]
        slice_.SliceThickness = slice_.SpacingBetweenSlices = _decimal(spacing[0])
        slice_.Rows, slice_.Columns = pixels.shape
        slice_.WindowCenter, slice_.WindowWidth = _decimal((window.low + window.high) / 2), _decimal(window.width)
        slice_.PixelData = pixels.tobytes()
        _add_overlay(slice_, overlay)
        slices.append(slice_)
    return slices


def write_series(folder: str | Path, *args, **options) -> list[Path]:
    """Writes `series` as files `slice_0001.dcm` … into a folder and returns their paths."""
    folder, paths = Path(folder), []
    folder.mkdir(parents=True, exist_ok=True)
    for slice_ in series(*args, **options):
        path = folder / f"slice_{slice_.InstanceNumber:04d}.dcm"
        with atomic_path(path) as temporary:
            slice_.save_as(temporary, enforce_file_format=True)
        paths.append(path)
    return paths


def write_zip(path: str | Path, *args, **options) -> None:
    """Writes `series` into one zip file, in a folder SYNTHETIC_CT."""
    with (
        atomic_path(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file,
    ):
        for slice_ in series(*args, **options):
            buffer = BytesIO()
            slice_.save_as(buffer, enforce_file_format=True)
            file.writestr(f"{WORD}_CT/slice_{slice_.InstanceNumber:04d}.dcm", buffer.getvalue())


def word_bits(rows: int, columns: int) -> UInt8[np.ndarray, "rows columns"]:
    """Bitmap of the word SYNTHETIC in the largest size that fits, at the upper edge of a slice."""
    canvas = Image.new("1", (columns, rows))
    draw = ImageDraw.Draw(canvas)
    for points in range(max(SMALLEST_WORD, rows // 8), SMALLEST_WORD - 1, -1):
        font = ImageFont.truetype(font_file("DejaVuSans-Bold"), points)
        if font.getlength(WORD) <= columns - 2 or points == SMALLEST_WORD:
            draw.text((columns / 2, 1), WORD, font=font, fill=1, anchor="ma")
            break
    return np.asarray(canvas, dtype=np.uint8)


def _series_attributes(comment: str) -> dict:
    """The attributes that all slices of a series share, modules of PS3.3 A.3 (CT Image IOD)."""
    now, identifier = datetime.datetime.now(), f"{WORD}-{secrets.token_hex(4).upper()}"
    values = {}
    for names, value in (
        (("StudyDate", "SeriesDate", "ContentDate"), f"{now:%Y%m%d}"),
        (("StudyTime", "SeriesTime", "ContentTime"), f"{now:%H%M%S}"),
        (("StudyDescription", "SeriesDescription"), DESCRIPTION),
        (("PatientName", "PatientID"), identifier),
        (("Manufacturer", "ManufacturerModelName"), "xray2ct"),
        (("AccessionNumber", "ReferringPhysicianName", "PatientBirthDate", "PatientSex", "StudyID"), ""),
    ):
        values |= dict.fromkeys(names, value)
    return values | {
        "SpecificCharacterSet": "ISO_IR 192",
        "ImageType": ["DERIVED", "SECONDARY", "AXIAL"],
        "SOPClassUID": CTImageStorage,
        "SyntheticData": "YES",  # (0008,001C)
        "Modality": "CT",
        "DerivationDescription": "Made by a neural network from one chest X-ray; no patient was scanned",
        "PatientIdentityRemoved": "YES",
        "DeidentificationMethod": "synthetic: never had a patient",
        "BodyPartExamined": "CHEST",
        "KVP": None,
        "PatientPosition": "HFS",
        "StudyInstanceUID": generate_uid(),
        "SeriesInstanceUID": generate_uid(),
        "SeriesNumber": 1,
        "AcquisitionNumber": None,
        "FrameOfReferenceUID": generate_uid(),
        "PositionReferenceIndicator": "",
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "ImageComments": comment or DESCRIPTION,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
        "BurnedInAnnotation": "NO",
        "RescaleIntercept": "0",
        "RescaleSlope": "1",
        "RescaleType": "HU",
    }


def _add_overlay(slice_: FileDataset, bits: np.ndarray) -> None:
    """Adds the overlay plane of group 6000: one bit per pixel, an even number of bytes."""
    packed = np.packbits(bits.ravel(), bitorder="little").tobytes()
    for element, kind, value in (
        (0x0010, "US", bits.shape[0]),
        (0x0011, "US", bits.shape[1]),
        (0x0022, "LO", DESCRIPTION),
        (0x0040, "CS", "G"),
        (0x0050, "SS", [1, 1]),
        (0x0100, "US", 1),
        (0x0102, "US", 0),
        (0x1500, "LO", WORD),
        (0x3000, "OW", packed + b"\0" * (len(packed) % 2)),
    ):
        slice_.add_new((0x6000, element), kind, value)


def _decimal(value: float) -> str:
    """A number as a decimal string of at most 16 characters."""
    return f"{float(value):.10g}"[:16]
