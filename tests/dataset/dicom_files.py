"""CT as DICOM for the tests: a series or one enhanced multi-frame file from an HU array, with its true geometry.

Volumes are `(D, H, W)` as everywhere: D inferior to superior, H anterior to posterior, W right to left. `centre` is
RAS mm, `rotation` turns the whole scan about its centre (in DICOM's LPS axes). `nifti_affine_of` gives what a reader
must find.
"""

import tempfile
from datetime import datetime
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    generate_uid,
)

SPACING, CENTRE = (6.0, 5.0, 4.5), (11.0, -7.0, 130.0)
TIME = datetime(2019, 3, 4, 10, 30, 0)
COMPRESSED = {"jpeg2000": "JPEG2000", "jpeg": "JPEG"}  # lossless both, written by GDCM


def rotation_about(axis, degrees):
    """Rotation matrix about one of the patient axes x (left), y (posterior), z (superior)."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(3)
    matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = c, -s, s, c
    return matrix


def nifti_affine_of(shape, spacing=SPACING, centre=CENTRE, rotation=None):
    """RAS affine of array axes `(W, H, D)` that a volume written here has."""
    rotation = np.eye(3) if rotation is None else np.asarray(rotation)
    columns = rotation * np.array([spacing[2], spacing[1], spacing[0]])  # LPS columns of W, H, D
    affine = np.eye(4)
    affine[:3, :3] = np.diag([-1.0, -1.0, 1.0]) @ columns
    middle = (np.array([shape[2], shape[1], shape[0]]) - 1) / 2.0
    affine[:3, 3] = np.asarray(centre) - affine[:3, :3] @ middle
    return affine


def write_ct_series(
    folder,
    hu,
    spacing=SPACING,
    centre=CENTRE,
    *,
    rotation=None,
    feet_first=False,
    patient="PAT-1",
    study_uid=None,
    series_uid=None,
    accession="ACC-1",
    time=TIME,
    age="061Y",
    sex="F",
    birth_date="",
    contrast="OMNI",
    kernel="B31f",
    thickness=None,
    image_type=("ORIGINAL", "PRIMARY", "AXIAL"),
    description="CTPA 1.0 B31f",
    modality="CT",
    acquisition=1,
    padding=None,
    padded=None,
    slopes=None,
    intercept=-1024.0,
    gantry_tilt=0.0,
    skip=(),
    repeat=(),
    without_pixels=(),
    syntax="explicit",
    prefix="IM",
    extra=None,
):
    """One file a slice with shuffled names; returns the folder.

    Args:
        feet_first: columns toward the patient's right, slices numbered from the feet, as such a scan has them.
        padding, padded: stored value written where the mask `padded` (H, W) is true, written as Pixel Padding Value.
        slopes: Rescale Slope of each slice; 1 by default.
        gantry_tilt: degrees; shears the stack of slices and writes the tilt.
        skip, repeat, without_pixels: indices of slices that are left out, written twice, or written as a header only.
        syntax: explicit, implicit, rle, jpeg2000 or jpeg (both lossless).
        extra: keyword -> value set on every slice, last.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    series_uid = series_uid or generate_uid()
    study_uid = study_uid or f"{series_uid}.1"  # a series belongs to one study
    frame_uid, depth = generate_uid(), hu.shape[0]
    rows, columns, positions = _geometry(hu.shape, spacing, centre, rotation, feet_first, gantry_tilt)
    order = np.random.default_rng(0).permutation(depth)
    for i in range(depth):
        if i in skip:
            continue
        slope = 1.0 if slopes is None else float(slopes[i])
        pixels = hu[i][:, ::-1] if feet_first else hu[i]
        stored = np.rint((pixels.astype(np.float64) - intercept) / slope).astype(np.int16)
        if padding is not None:
            stored[padded[:, ::-1] if feet_first else padded] = padding
        ds = _file(folder / "x", CTImageStorage, ImplicitVRLittleEndian if syntax == "implicit" else None)
        _identify(ds, patient, study_uid, series_uid, accession, time, age, sex, birth_date, frame_uid)
        ds.Modality, ds.ImageType, ds.SeriesDescription = modality, list(image_type), description
        ds.ContrastBolusAgent, ds.ConvolutionKernel, ds.AcquisitionNumber = contrast, kernel, acquisition
        ds.PatientPosition, ds.GantryDetectorTilt = "FFS" if feet_first else "HFS", gantry_tilt
        ds.InstanceNumber = i + 1 if feet_first else depth - i
        ds.PixelSpacing = [spacing[1], spacing[2]]
        ds.SliceThickness = spacing[0] if thickness is None else thickness
        ds.ImageOrientationPatient = [_decimal(v) for v in (*columns, *rows)]
        ds.ImagePositionPatient = [_decimal(v) for v in positions[i]]
        ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = _decimal(slope), _decimal(intercept), "HU"
        _describe_pixels(ds, stored.shape)
        if padding is not None:
            ds.add_new("PixelPaddingValue", "SS", int(padding))
        for keyword, value in (extra or {}).items():
            setattr(ds, keyword, value)
        if i not in without_pixels:
            _set_pixels(ds, stored, syntax)
        for copy in range(2 if i in repeat else 1):
            pydicom.dcmwrite(folder / f"{prefix}{order[i]:04d}{'b' * copy}.dcm", ds)
    return folder


def write_enhanced_ct(path, hu, spacing=SPACING, centre=CENTRE, *, rotation=None, slopes=None, **identity):
    """One enhanced multi-frame CT file; frames are in shuffled order; `identity` as `write_ct_series` takes it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows, columns, positions = _geometry(hu.shape, spacing, centre, rotation, False, 0.0)
    slopes = np.ones(len(hu)) if slopes is None else np.asarray(slopes)
    ds = _file(path, EnhancedCTImageStorage, None)
    given = {"patient": "PAT-1", "study_uid": generate_uid(), "series_uid": generate_uid(), "accession": "ACC-1",
             "time": TIME, "age": "061Y", "sex": "F", "birth_date": "", **identity}  # fmt: skip
    _identify(ds, **given, frame_uid=generate_uid())
    ds.Modality, ds.ImageType, ds.NumberOfFrames = "CT", ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], len(hu)
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [spacing[1], spacing[2]], spacing[0]
    orientation.ImageOrientationPatient = [_decimal(v) for v in (*columns, *rows)]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    ds.SharedFunctionalGroupsSequence, frames, stored = [shared], [], []
    for i in np.random.default_rng(1).permutation(len(hu)):
        group, position, transform = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [_decimal(v) for v in positions[i]]
        transform.RescaleSlope, transform.RescaleIntercept = _decimal(slopes[i]), -1024
        transform.RescaleType = "HU"
        group.PlanePositionSequence, group.PixelValueTransformationSequence = [position], [transform]
        frames.append(group)
        stored.append(np.rint((hu[i].astype(np.float64) + 1024.0) / slopes[i]).astype(np.int16))
    ds.PerFrameFunctionalGroupsSequence = frames
    _describe_pixels(ds, hu.shape[1:])
    ds.PixelData = np.stack(stored).tobytes()
    pydicom.dcmwrite(path, ds)
    return path


def _geometry(shape, spacing, centre, rotation, feet_first, gantry_tilt):
    """Unit vectors down the rows and along the columns (LPS), and the position of each slice's first pixel."""
    rotation = np.eye(3) if rotation is None else np.asarray(rotation, dtype=float)
    across, down, up = rotation[:, 0].copy(), rotation[:, 1], rotation[:, 2]
    across *= -1.0 if feet_first else 1.0
    step = up + np.tan(np.deg2rad(gantry_tilt)) * down  # the table moves on while the slices lean
    depth, height, width = shape
    middle = np.array([-centre[0], -centre[1], centre[2]])
    corner = middle - across * (width - 1) / 2 * spacing[2] - down * (height - 1) / 2 * spacing[1]
    return down, across, [corner + step * (i - (depth - 1) / 2) * spacing[0] for i in range(depth)]


def _file(path, sop_class, syntax):
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, generate_uid()
    meta.TransferSyntaxUID = syntax or ExplicitVRLittleEndian
    ds = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    return ds


def _identify(ds, patient, study_uid, series_uid, accession, time, age, sex, birth_date, frame_uid):
    ds.PatientID, ds.PatientName, ds.AccessionNumber = patient, f"Name^{patient}", accession
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study_uid, series_uid, frame_uid
    ds.PatientAge, ds.PatientSex, ds.PatientBirthDate = age, sex, birth_date
    if time is not None:
        ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = time.strftime("%Y%m%d")
        ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = time.strftime("%H%M%S")


def _describe_pixels(ds, shape):
    ds.Rows, ds.Columns, ds.SamplesPerPixel = shape[0], shape[1], 1
    ds.PhotometricInterpretation, ds.PixelRepresentation = "MONOCHROME2", 1
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15


def _set_pixels(ds, stored, syntax):
    ds.PixelData = np.ascontiguousarray(stored).tobytes()
    if syntax == "rle":
        ds.compress(RLELossless, generate_instance_uid=False)
    elif syntax in COMPRESSED:
        with tempfile.TemporaryDirectory() as place:
            writer = sitk.ImageFileWriter()
            writer.SetFileName(f"{place}/slice.dcm")
            writer.UseCompressionOn()
            writer.SetCompressor(COMPRESSED[syntax])
            writer.Execute(sitk.GetImageFromArray(stored[None]))
            made = pydicom.dcmread(f"{place}/slice.dcm")
        ds.PixelData, ds.file_meta.TransferSyntaxUID = made.PixelData, made.file_meta.TransferSyntaxUID
        ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True


def _decimal(value):
    """A number as DICOM's decimal string holds it: 16 characters."""
    return pydicom.valuerep.DSfloat(float(value), auto_format=True)
