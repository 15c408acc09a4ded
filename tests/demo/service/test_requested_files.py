"""Files made on request: none before, each once, equal to those made from the result's volume."""

import zipfile
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from unittest.mock import Mock

import numpy as np
import pydicom
import pytest
import torch
from PIL import Image

from dataset.imaging.hu_window import Window
from dataset.io.nifti import write_nifti
from demo.service import requested_files
from demo.service.messages import ON_REQUEST, RESULT_FILES
from demo.service.requested_files import MAKERS, find_or_make, keep_recipe
from demo.service.result_store import Store

SPACING, CENTRE = (4.0, 3.0, 2.5), (1.0, 2.0, 3.0)


@pytest.fixture
def result(tmp_path):
    """A store, the token of a result, and its HU."""
    store, hu = Store(tmp_path / "run", 1000.0), torch.linspace(-999.6, 999.6, 5 * 24 * 32).reshape(5, 24, 32)
    with store.held() as (token, place):
        write_nifti(place / "volume.nii.gz", hu, SPACING, CENTRE, "mark")
        keep_recipe(place, SPACING, CENTRE, Window(-1000.0, 1000.0), "mark; nominal spacing")
    yield store, token, hu
    store.close()


def test_nothing_is_made_unless_asked_for(result):
    store, token, _ = result
    assert set(MAKERS) == set(ON_REQUEST) <= set(RESULT_FILES)
    assert find_or_make(store, token, "volume.nii.gz").is_file()
    assert find_or_make(store, token, "spread.nii.gz") is None
    assert all(store.find(token, name) is None for name in ON_REQUEST)


def test_the_series_holds_the_volume_and_its_label(result):
    store, token, hu = result
    archive = zipfile.ZipFile(find_or_make(store, token, "dicom.zip"))
    slices = [pydicom.dcmread(BytesIO(archive.read(name))) for name in sorted(archive.namelist())]
    slices.sort(key=lambda one: float(one.ImagePositionPatient[2]))
    found = np.stack([one.pixel_array * float(one.RescaleSlope) + float(one.RescaleIntercept) for one in slices])
    assert sorted(found.ravel()) == sorted(np.rint(hu.numpy()).ravel())
    assert slices[0].ImageComments == "mark; nominal spacing"
    assert float(slices[0].PixelSpacing[0]) == SPACING[1]


def test_the_animation_moves(result):
    store, token, _ = result
    assert Image.open(find_or_make(store, token, "animation.gif")).n_frames > 1


def test_a_file_is_made_once_for_many_clients(result, monkeypatch):
    store, token, _ = result
    maker = Mock(side_effect=MAKERS["dicom.zip"])
    monkeypatch.setitem(MAKERS, "dicom.zip", maker)
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _: find_or_make(store, token, "dicom.zip"), range(4)))
    assert len(found) == 1 and maker.call_count == 1


def test_the_sweeper_waits_for_a_file_in_the_making(result, monkeypatch):
    store, token, _ = result
    monkeypatch.setitem(MAKERS, "dicom.zip", lambda path, *_: [store.sweep(now=1e12), path.write_bytes(b"x")])
    assert find_or_make(store, token, "dicom.zip").read_bytes() == b"x"
    assert store.sweep(now=1e12) == 1 and find_or_make(store, token, "dicom.zip") is None


@pytest.mark.parametrize("token", ["", "..", "nothing", "../uploads"])
def test_unknown_tokens_make_nothing(result, token):
    assert find_or_make(result[0], token, "dicom.zip") is None
    assert requested_files.RECIPE not in RESULT_FILES
