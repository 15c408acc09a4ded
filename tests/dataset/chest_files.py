"""Small CT files for the tests: a lopsided thorax as NIfTI in any orientation and as a DICOM series."""

import nibabel as nib
import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from dataset.imaging.geometry import nifti_affine

SIZE, SPACING, CENTRE = (20, 24, 28), (6.0, 5.0, 4.5), (11.0, -7.0, 130.0)


def thorax(size=SIZE, seed=0):
    """HU (D, H, W): body, two unequal lungs, a heart on the left, a liver below right; no axis is symmetric."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*[(np.arange(n) + 0.5) / n * 2 - 1 for n in size], indexing="ij")
    hu = np.full(size, -1000.0)
    hu[(y / 0.9) ** 2 + (x / 0.95) ** 2 < 1] = 40
    right = ((x + 0.45) / 0.35) ** 2 + (y / 0.6) ** 2 + ((z - 0.15) / 0.75) ** 2 < 1
    left = ((x - 0.5) / 0.28) ** 2 + (y / 0.55) ** 2 + ((z - 0.05) / 0.85) ** 2 < 1
    hu[right | left] = -820
    hu[((x - 0.2) / 0.3) ** 2 + ((y + 0.3) / 0.3) ** 2 + ((z + 0.25) / 0.35) ** 2 < 1] = 150  # heart: front, left
    hu[(x**2 + ((y - 0.65) / 0.8) ** 2) < 0.015] = 700  # spine: back
    return np.rint(np.maximum(hu + rng.normal(0, 8, size), -1024)).astype(np.int16)


def save_nifti(path, hu, spacing=SPACING, centre=CENTRE, axcodes="LPS", affine=None, dtype=np.int16):
    """Written by nibabel alone, with array axes toward `axcodes`."""
    image = nib.Nifti1Image(
        np.ascontiguousarray(np.transpose(hu, (2, 1, 0))).astype(dtype),
        nifti_affine(spacing, centre, hu.shape) if affine is None else affine,
    )
    wanted = nib.orientations.axcodes2ornt(tuple(axcodes))
    image = image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(image.affine), wanted))
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def save_dicom_series(folder, hu, spacing=SPACING, centre=CENTRE, series=None, modality="CT", feet_first=False):
    """One file per slice with shuffled names; `feet_first` writes the axes as such a scan has them."""
    folder.mkdir(parents=True, exist_ok=True)
    series, frame = series or generate_uid(), generate_uid()
    depth, height, width = hu.shape
    turn = -1.0 if feet_first else 1.0  # columns toward the patient's right instead of left
    order = np.random.default_rng(0).permutation(depth)
    first = np.array([-centre[0], -centre[1], centre[2]])  # LPS
    for i in range(depth):
        across = turn * (np.arange(width) - (width - 1) / 2) * spacing[2]
        down = -(height - 1) / 2 * spacing[1]
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        name = folder / f"IM{order[i]:04d}.dcm"
        ds = FileDataset(name, {}, file_meta=meta, preamble=b"\0" * 128)
        ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        ds.SeriesInstanceUID, ds.StudyInstanceUID, ds.FrameOfReferenceUID = series, generate_uid(), frame
        ds.Modality, ds.PatientID, ds.InstanceNumber = modality, "x", i + 1
        ds.Rows, ds.Columns, ds.SamplesPerPixel = height, width, 1
        ds.PhotometricInterpretation, ds.PixelRepresentation = "MONOCHROME2", 0
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
        ds.RescaleSlope, ds.RescaleIntercept = 1, -1024
        ds.PixelSpacing, ds.SliceThickness = [spacing[1], spacing[2]], spacing[0]
        ds.ImageOrientationPatient = [turn, 0, 0, 0, 1, 0]
        height_mm = (i - (depth - 1) / 2) * spacing[0]
        ds.ImagePositionPatient = [float(v) for v in first + np.array([across[0], down, height_mm])]
        pixels = hu[i][:, ::-1] if feet_first else hu[i]
        ds.PixelData = (pixels.astype(np.int32) + 1024).astype(np.uint16).tobytes()
        pydicom.dcmwrite(name, ds)
    return folder
