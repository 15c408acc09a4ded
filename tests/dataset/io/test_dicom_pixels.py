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
