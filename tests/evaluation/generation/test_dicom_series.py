"""The DICOM series of a generated volume: geometry and HU in other readers, its mark, and new identifiers."""

import zipfile

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.overlays import get_overlay_array

from dataset.imaging.hu_window import Window
from dataset.io.ct import read_volume
from dataset.io.nifti import write_nifti
from evaluation.generation.dicom_series import series, word_bits, write_series, write_zip

SPACING, CENTRE = (2.5, 1.25, 0.7512345678), (12.0, -30.5, 410.25)


@pytest.fixture
def hu():
    volume = np.random.default_rng(0).uniform(-1000, 1000, (6, 40, 52)).astype(np.float32)
    volume[:3, :20, :26] = -1000.0
    return volume


def test_simpleitk_reads_the_same_hu_at_the_same_position(hu, tmp_path):
    write_series(tmp_path / "series", hu, SPACING, CENTRE)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "series")))
    image = reader.Execute()
    assert np.abs(sitk.GetArrayFromImage(image) - hu).max() <= 1.0
    write_nifti(tmp_path / "same.nii.gz", hu, SPACING, CENTRE)
    nifti = sitk.ReadImage(str(tmp_path / "same.nii.gz"))
    ours, theirs = (
        np.array([volume.TransformIndexToPhysicalPoint(corner) for corner in ((0, 0, 0), (51, 39, 5))])
        for volume in (image, nifti)
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-3)
    assert (ours[1] > ours[0]).all()  # x to the left, y to posterior, z to superior


def test_read_volume_and_pydicom_read_it(hu, tmp_path):
    paths = write_series(tmp_path / "series", hu, SPACING, CENTRE)
    volume = read_volume(tmp_path / "series")
    assert np.abs(volume.hu - hu).max() <= 1.0
    np.testing.assert_allclose(volume.spacing, SPACING, atol=1e-4)
    np.testing.assert_allclose(volume.centre, CENTRE, atol=1e-3)
    slice_ = pydicom.dcmread(paths[2])
    np.testing.assert_array_equal(slice_.pixel_array * slice_.RescaleSlope + slice_.RescaleIntercept, np.rint(hu[2]))


def test_every_slice_is_marked_as_synthetic_and_keeps_its_hu(hu):
    slices = series(hu, SPACING)
    for number, slice_ in enumerate(slices):
        assert slice_.SOPClassUID == "1.2.840.10008.5.1.4.1.1.2"
        assert list(slice_.ImageType) == ["DERIVED", "SECONDARY", "AXIAL"]
        assert slice_[0x0008, 0x001C].value == "YES"
        assert str(slice_.PatientID).startswith("SYNTHETIC-") and slice_.PatientName == slice_.PatientID
        bits = get_overlay_array(slice_, 0x6000)
        assert bits.shape == hu.shape[1:] and 20 < bits.sum() < bits.size / 3
        np.testing.assert_array_equal(slice_.pixel_array, np.rint(hu[number]))
    assert len({s.SOPInstanceUID for s in slices}) == len(slices)
    for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        assert len({slice_[name].value for slice_ in slices}) == 1


def test_the_word_is_legible():
    bits = word_bits(128, 128)
    rows, columns = np.flatnonzero(bits.any(axis=1)), np.flatnonzero(bits.any(axis=0))
    assert 8 <= len(rows) <= 20 and np.ptp(columns) > 64
    gaps = np.diff(np.flatnonzero(~bits.any(axis=0)[columns[0] : columns[-1]]))
    assert (gaps > 1).sum() >= 6  # nine separate letters


def test_two_series_share_no_identifier(hu):
    first, second = (series(hu, SPACING)[0] for _ in range(2))
    for name in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID"):
        assert first[name].value != second[name].value


def test_a_zip_contains_the_series(hu, tmp_path):
    write_zip(tmp_path / "dicom.zip", hu, SPACING, CENTRE, Window(-200.0, 500.0))
    with zipfile.ZipFile(tmp_path / "dicom.zip") as file:
        assert len(file.namelist()) == 6 and all(n.startswith("SYNTHETIC_CT/slice_") for n in file.namelist())
        file.extractall(tmp_path)
    slice_ = pydicom.dcmread(tmp_path / "SYNTHETIC_CT" / "slice_0001.dcm")
    assert (float(slice_.WindowCenter), float(slice_.WindowWidth)) == (150.0, 700.0)


@pytest.mark.parametrize("bad", [np.zeros((4, 4)), np.full((4, 4, 4), np.nan)])
def test_other_shapes_and_nan_raise(bad):
    with pytest.raises(ValueError, match="finite HU"):
        series(bad, SPACING)
