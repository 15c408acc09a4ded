"""Marks of what a scan did not cover: filled from the nearest slice, kept by crops and resampling."""

import numpy as np
import pytest

from dataset.imaging.coverage import NOT_SCANNED_HU, at_least_air, cropped, fill, padded, resample_scanned
from dataset.imaging.hu_window import AIR_HU
from dataset.imaging.volume import Volume

HU = np.random.default_rng(0).integers(-900, 500, (8, 6, 7)).astype(np.float32)


def test_filling_a_scanned_volume_returns_it():
    filled, scanned = fill(HU)
    assert filled is HU and scanned.all()


@pytest.mark.parametrize("kind", [np.int16, np.float32])
def test_the_nearest_slice_is_repeated(kind):
    marked = HU.astype(kind)
    marked[:2] = marked[6:] = NOT_SCANNED_HU
    before = marked.copy()
    filled, scanned = fill(marked)
    assert filled.dtype == kind and np.array_equal(marked, before)
    assert np.array_equal(scanned, marked != NOT_SCANNED_HU)
    np.testing.assert_array_equal(filled, HU[[2, 2, 2, 3, 4, 5, 5, 5]])


def test_a_column_that_no_slice_scanned_is_air():
    marked = HU.copy()
    marked[:, :, 0] = NOT_SCANNED_HU
    marked[3, 2, 4] = NOT_SCANNED_HU
    filled, _ = fill(marked)
    assert (filled[:, :, 0] == AIR_HU).all() and filled[3, 2, 4] in (HU[2, 2, 4], HU[4, 2, 4])
    assert (fill(np.full_like(HU, NOT_SCANNED_HU))[0] == AIR_HU).all()


def test_padding_of_scanners_is_air_and_marks_stay():
    given = np.array([[[-3024.0, -2048.0, NOT_SCANNED_HU, -500.0]]], dtype=np.float32)
    assert at_least_air(given).ravel().tolist() == [AIR_HU, AIR_HU, NOT_SCANNED_HU, -500.0]


def test_padding_is_not_scanned_beyond_the_slices_and_where_the_side_cuts_the_patient():
    hu = np.full((3, 4, 5), AIR_HU, dtype=np.float32)
    hu[:, 2, 0] = 40.0  # the patient goes on beyond the first column of this row
    found = padded(hu, ((1, 0), (0, 0), (2, 1)))
    assert (found[0] == NOT_SCANNED_HU).all() and found.shape == (4, 4, 8)
    cut = np.zeros((3, 4, 8), dtype=bool)
    cut[:, 2, :2] = True
    np.testing.assert_array_equal(found[1:] == NOT_SCANNED_HU, cut)
    np.testing.assert_array_equal(found[1:, :, 2:7], hu)


def test_a_box_beyond_the_volume_moves_nothing():
    volume = Volume(HU, (2.0, 3.0, 4.0), (5.0, 6.0, 7.0))
    larger = cropped(volume, (slice(-2, 9), slice(-1, 6), slice(0, 10)))
    assert larger.hu.shape == (11, 7, 10)
    np.testing.assert_allclose(larger.affine @ [0, 1, 2, 1], volume.affine @ [0, 0, 0, 1], atol=1e-9)
    again = cropped(larger, (slice(2, 10), slice(1, 7), slice(0, 7)))
    np.testing.assert_array_equal(again.hu, HU)
    np.testing.assert_allclose(again.affine, volume.affine, atol=1e-9)


def test_resampling_marks_what_is_not_wholly_scanned():
    marked = HU.copy()
    marked[:3] = NOT_SCANNED_HU
    small = resample_scanned(Volume(marked, (1.0, 1.0, 1.0)), (16, 6, 7))
    missing = small.hu == NOT_SCANNED_HU
    assert missing[:6].all() and not missing[7:].any()  # only a voxel at the border may be a mixture
    assert small.hu[~missing].min() >= HU.min()
    plain = resample_scanned(Volume(HU, (1.0, 1.0, 1.0)), (16, 6, 7)).hu
    assert (plain != NOT_SCANNED_HU).all()


def test_a_volume_too_short_for_its_grid_is_not_air_beyond_its_ends():
    volume = Volume(np.full((4, 10, 10), 40.0, dtype=np.float32), (2.0, 2.0, 2.0))
    volume.hu[:, :2] = volume.hu[:, -2:] = volume.hu[:, :, :2] = volume.hu[:, :, -2:] = AIR_HU
    found = resample_scanned(volume, (8, 12, 12), (2.0, 2.0, 2.0)).hu
    assert (found[:2] == NOT_SCANNED_HU).all() and (found[-2:] == NOT_SCANNED_HU).all()
    assert (found[2:6] != NOT_SCANNED_HU).all() and (found[2:6, 0] == AIR_HU).all()
