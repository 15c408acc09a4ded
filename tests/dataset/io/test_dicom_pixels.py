"""A second decoder reads what the first fails at; the message names the compression that neither reads."""

import numpy as np
import pydicom
import pytest
from chest_files import thorax
from dicom_files import write_ct_series

from common.errors import UserError
from dataset.io import dicom_pixels
from dataset.io.ct import read_volume
from dataset.io.dicom_pixels import stored_values

HU = thorax(size=(6, 24, 28))


def refuse(*_, **__):
    raise RuntimeError("12 bits are not supported")


@pytest.mark.parametrize("syntax", ["jpeg", "jpeg2000"])
def test_where_pydicom_has_a_decoder_that_fails_simpleitk_reads(tmp_path, monkeypatch, syntax):
    folder = write_ct_series(tmp_path, HU, syntax=syntax)
    monkeypatch.setattr(dicom_pixels, "pixel_array", refuse)
    assert np.abs(read_volume(folder).hu - HU).max() <= 1


def test_the_message_names_the_compression_and_not_the_file(tmp_path, monkeypatch):
    path = sorted(write_ct_series(tmp_path, HU, syntax="jpeg2000").iterdir())[2]
    monkeypatch.setattr(dicom_pixels, "pixel_array", refuse)
    monkeypatch.setattr(dicom_pixels, "decode_with_simpleitk", refuse)
    with pytest.raises(UserError, match="^a pseudonym: damaged, or no decoder for JPEG 2000"):
        stored_values(pydicom.dcmread(path), path, "a pseudonym")


def test_signed_values_without_their_sign_are_read(tmp_path):
    """12 bits stored as signed in 16, the upper 4 of them zero."""
    folder = write_ct_series(tmp_path, HU, intercept=0.0)
    for path in folder.iterdir():
        ds = pydicom.dcmread(path)
        ds.BitsStored, ds.HighBit = 12, 11
        ds.PixelData = (np.frombuffer(ds.PixelData, np.int16) & 0xFFF).astype(np.int16).tobytes()
        pydicom.dcmwrite(path, ds)
    assert np.abs(read_volume(folder).hu - HU).max() <= 1


def test_positive_values_beyond_the_sign_of_a_wrong_header_stay(tmp_path):
    """0 to 4095 declared as 12 signed bits: with signs, bone would jump."""
    folder = write_ct_series(tmp_path, HU + 1200, intercept=-1024.0)
    for path in folder.iterdir():
        ds = pydicom.dcmread(path)
        ds.BitsStored, ds.HighBit, ds.RescaleIntercept = 12, 11, -2224
        pydicom.dcmwrite(path, ds)
    assert np.abs(read_volume(folder).hu - HU).max() <= 1


def test_the_second_decoder_reads_nothing_but_dicom(tmp_path):
    """A file can be DICOM by its prefix and a MetaImage, with voxels anywhere, by its name and first bytes."""
    (tmp_path / "secret.raw").write_bytes(np.full(64, 7, np.int16).tobytes())
    header = b"NDims = 2\nDimSize = 8 8\nElementType = MET_SHORT\nElementDataFile = secret.raw\n"
    (tmp_path / "a.mha").write_bytes(header.ljust(128, b"\n") + b"DICM")
    with pytest.raises(RuntimeError):
        dicom_pixels.decode_with_simpleitk(tmp_path / "a.mha", pydicom.Dataset())
