"""Writes a generated volume as a DICOM series (CT Image Storage) that is marked as synthetic.

Names, dates and identifiers are new; nothing is copied from an X-ray. Every slice has the word SYNTHETIC in an overlay
plane (PS3.3 C.9.2), which leaves its HU unchanged.
"""

import datetime
import secrets
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
from jaxtyping import UInt8
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from common.files import atomic_path
from dataset.imaging.geometry import nifti_affine
from dataset.imaging.hu_window import Window

WORD = "SYNTHETIC"
DESCRIPTION = "SYNTHETIC CT - not for diagnosis"
STORED = (-32768, 32767)  # int16: stored values are HU
SMALLEST_WORD = 7  # points; smaller letters are illegible


def series(
    hu,
    spacing,
    centre=(0.0, 0.0, 0.0),
    window: Window | None = None,
    comment: str = "",
    now: datetime.datetime | None = None,
) -> list[FileDataset]:
    """One DICOM data set per axial slice, inferior first, with new study, series and frame of reference UIDs.

    Args:
        hu: `(D, H, W)`, rounded to whole HU.
        spacing: mm `(D, H, W)`.
        centre: RAS mm of the volume's centre, as in `dataset.imaging.volume.Volume`.
        window: HU that a viewer shows first; default [-1000, 1000].
        comment: Image Comments, without private data.
        now: date and time of the series; default the present.

    Raises:
        ValueError: `hu` is not 3-dimensional or not finite.
    """
    hu = np.asarray(hu, dtype=np.float32)
    if hu.ndim != 3 or not np.isfinite(hu).all():
        raise ValueError(f"needs a volume (D, H, W) of finite HU, found shape {hu.shape}")
    stored = np.rint(hu.clip(*STORED)).astype("<i2")
    now = datetime.datetime.now() if now is None else now
    window = Window(-1000.0, 1000.0) if window is None else window
    identifier = f"{WORD}-{secrets.token_hex(4).upper()}"
    study, own, frame = (generate_uid() for _ in range(3))
    affine, overlay = nifti_affine(spacing, centre, hu.shape), word_bits(hu.shape[1], hu.shape[2])
    slices = []
    for number, pixels in enumerate(stored):
        slice_ = _frame(identifier, study, own, frame, now, comment)
        # from RAS to the LPS of DICOM
        x, y, z = (affine @ [0, 0, number, 1])[:3] * (-1, -1, 1)
        slice_.InstanceNumber = number + 1
        slice_.ImagePositionPatient = [_decimal(v) for v in (x, y, z)]
        slice_.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        slice_.SliceLocation = _decimal(z)
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
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for slice_ in series(*args, **options):
        path = folder / f"slice_{slice_.InstanceNumber:04d}.dcm"
        with atomic_path(path) as temporary:
            slice_.save_as(temporary, enforce_file_format=True)
        paths.append(path)
    return paths


def write_zip(path: str | Path, *args, **options) -> Path:
    """Writes `series` into one zip file, in a folder SYNTHETIC_CT, and returns its path."""
    with (
        atomic_path(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file,
    ):
        for slice_ in series(*args, **options):
            buffer = BytesIO()
            slice_.save_as(buffer, enforce_file_format=True)
            file.writestr(f"{WORD}_CT/slice_{slice_.InstanceNumber:04d}.dcm", buffer.getvalue())
    return Path(path)


def word_bits(rows: int, columns: int) -> UInt8[np.ndarray, "rows columns"]:
    """Bitmap of the word SYNTHETIC at the upper edge of a slice, as large as it fits."""
    canvas = Image.new("1", (columns, rows))
    draw = ImageDraw.Draw(canvas)
    for points in range(max(SMALLEST_WORD, rows // 8), SMALLEST_WORD - 1, -1):
        font = ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans-Bold.ttf", points)
        if font.getlength(WORD) <= columns - 2 or points == SMALLEST_WORD:
            draw.text((columns / 2, 1), WORD, font=font, fill=1, anchor="ma")
            break
    return np.asarray(canvas, dtype=np.uint8)


def _frame(identifier: str, study: str, series_uid: str, frame: str, now, comment: str) -> FileDataset:
    """The attributes that all slices of a series share, modules of PS3.3 A.3 (CT Image IOD)."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = pydicom.uid.PYDICOM_IMPLEMENTATION_UID
    slice_ = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    day, hour = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    values = {
        "SpecificCharacterSet": "ISO_IR 192",
        "ImageType": ["DERIVED", "SECONDARY", "AXIAL"],
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "SyntheticData": "YES",  # (0008,001C)
        "StudyDate": day,
        "SeriesDate": day,
        "ContentDate": day,
        "StudyTime": hour,
        "SeriesTime": hour,
        "ContentTime": hour,
        "AccessionNumber": "",
        "Modality": "CT",
        "Manufacturer": "xray2ct",
        "ManufacturerModelName": "xray2ct",
        "ReferringPhysicianName": "",
        "StudyDescription": DESCRIPTION,
        "SeriesDescription": DESCRIPTION,
        "DerivationDescription": "Made by a neural network from one chest X-ray; no patient was scanned",
        "PatientName": identifier,
        "PatientID": identifier,
        "PatientBirthDate": "",
        "PatientSex": "",
        "PatientIdentityRemoved": "YES",
        "DeidentificationMethod": "synthetic: never had a patient",
        "BodyPartExamined": "CHEST",
        "KVP": None,
        "PatientPosition": "HFS",
        "StudyInstanceUID": study,
        "SeriesInstanceUID": series_uid,
        "StudyID": "",
        "SeriesNumber": 1,
        "AcquisitionNumber": None,
        "FrameOfReferenceUID": frame,
        "PositionReferenceIndicator": "",
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
    for name, value in values.items():
        setattr(slice_, name, value)
    return slice_


def _add_overlay(slice_: FileDataset, bits: np.ndarray) -> None:
    """Adds the overlay plane of group 6000: one bit per pixel, an even number of bytes."""
    packed = np.packbits(bits.ravel(), bitorder="little").tobytes()
    slice_.add_new(0x60000010, "US", bits.shape[0])
    slice_.add_new(0x60000011, "US", bits.shape[1])
    slice_.add_new(0x60000022, "LO", DESCRIPTION)
    slice_.add_new(0x60000040, "CS", "G")
    slice_.add_new(0x60000050, "SS", [1, 1])
    slice_.add_new(0x60000100, "US", 1)
    slice_.add_new(0x60000102, "US", 0)
    slice_.add_new(0x60001500, "LO", WORD)
    slice_.add_new(0x60003000, "OW", packed + b"\0" * (len(packed) % 2))


def _decimal(value: float) -> str:
    """A number as a decimal string of at most 16 characters."""
    return f"{float(value):.10g}"[:16]
