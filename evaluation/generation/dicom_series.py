"""A generated volume as a DICOM series that nobody can take for a patient's: CT Image Storage, marked as synthetic.

Nothing is copied from any X-ray: names, dates and identifiers are made here. The word SYNTHETIC lies over every slice
in an overlay plane (PS3.3 C.9.2), so that the HU under it stay as they are.
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
STORED = (-32768, 32767)  # 16 bits with a sign: stored values are HU
SMALLEST_WORD = 7  # points, below which letters are no letters any more


def series(
    hu,
    spacing,
    centre=(0.0, 0.0, 0.0),
    window: Window | None = None,
    comment: str = "",
    now: datetime.datetime | None = None,
) -> list[FileDataset]:
    """One data set per axial slice, inferior first, with new study, series and frame of reference UIDs.

    Args:
        hu: `(D, H, W)`, rounded to whole HU.
        spacing: mm `(D, H, W)`.
        centre: RAS mm of the volume's centre, as in `dataset.imaging.volume.Volume`.
        window: HU that a viewer shows first; by default all that a chest has.
        comment: of the image; not more than what a stranger may read.
        now: of the series; by default the present time.

    Raises:
        ValueError: `hu` is not 3-dimensional or not finite.
    """
    hu = np.asarray(hu, dtype=np.float32)
    if hu.ndim != 3 or not np.isfinite(hu).all():
        raise ValueError(f"a volume of finite HU has the shape (D, H, W), found {hu.shape}")
    stored = np.rint(hu.clip(*STORED)).astype("<i2")
    now = datetime.datetime.now() if now is None else now
    window = Window(-1000.0, 1000.0) if window is None else window
    identifier = f"{WORD}-{secrets.token_hex(4).upper()}"
    study, own, frame = (generate_uid() for _ in range(3))
    affine, overlay = nifti_affine(spacing, centre, hu.shape), word_bits(hu.shape[1], hu.shape[2])
    slices = []
    for number, pixels in enumerate(stored):
        slice_ = _frame(identifier, study, own, frame, now, comment)
        # RAS of the first voxel; DICOM counts x toward the left and y toward the back
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
        _lay_over(slice_, overlay)
        slices.append(slice_)
    return slices


def write_series(folder: str | Path, *args, **options) -> list[Path]:
    """`series` as files `slice_0001.dcm` … in a folder."""
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
    """`series` in one zip file, in a folder named SYNTHETIC_CT."""
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
    """1 where the word SYNTHETIC stands, at the upper edge of a slice, as large as it fits."""
    canvas = Image.new("1", (columns, rows))
    draw = ImageDraw.Draw(canvas)
    for points in range(max(SMALLEST_WORD, rows // 8), SMALLEST_WORD - 1, -1):
        font = ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans-Bold.ttf", points)
        if font.getlength(WORD) <= columns - 2 or points == SMALLEST_WORD:
            draw.text((columns / 2, 1), WORD, font=font, fill=1, anchor="ma")
            break
    return np.asarray(canvas, dtype=np.uint8)


def _frame(identifier: str, study: str, series_uid: str, frame: str, now, comment: str) -> FileDataset:
    """All that the slices of a series have in common: the modules of PS3.3 A.3 (CT Image IOD)."""
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


def _lay_over(slice_: FileDataset, bits: np.ndarray) -> None:
    """The overlay plane of group 6000: graphics of one bit, whole bytes, an even number of them."""
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
    """A number in the 16 characters of a decimal string."""
    return f"{float(value):.10g}"[:16]
