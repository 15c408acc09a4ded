"""Tables, mattresses and wires go, the patient stays whole, and a lung at the edge of the image is inside."""

import numpy as np
import pytest
from scipy import ndimage
from skimage.morphology import convex_hull_image

from dataset.imaging.coverage import NOT_SCANNED_HU, cropped
from dataset.imaging.hu_window import AIR_HU
from dataset.imaging.lung_segmentation import GAS_BELOW_HU, segment_lungs
from dataset.imaging.patient_mask import SIDES, lung_runs, patient_mask, slice_hulls, without_surroundings
from dataset.imaging.volume import Volume
from dataset.phantom.render import render_phantom

SIZE = (40, 96, 112)


@pytest.fixture(scope="module")
def chest():
    phantom = render_phantom(1, size=SIZE)
    return phantom.hu.astype(np.float32), phantom.spacing


def back(hu: np.ndarray) -> int:
    """First row behind the patient."""
    return int(np.flatnonzero((hu > -300).any(axis=(0, 2)))[-1]) + 1


def with_table(hu: np.ndarray, spacing, gap: int, hollow: bool) -> np.ndarray:
    """A table behind the patient, `gap` rows away: two plates of 2 rows with foam between them, or one."""
    hu = np.concatenate([hu, np.full((hu.shape[0], 24, hu.shape[2]), -1000.0, dtype=np.float32)], axis=1)
    top = back(hu) + gap
    hu[:, top : top + 2, 4:-4] = 60.0
    if hollow:
        hu[:, top + 2 : top + 14, 4:-4] = -870.0  # like lung
        hu[:, top + 14 : top + 16, 4:-4] = 60.0
        hu[:, top : top + 16, 4:6] = hu[:, top : top + 16, -6:-4] = 60.0
    return hu


@pytest.mark.parametrize("hollow", [False, True])
@pytest.mark.parametrize("gap", [0, 2])
def test_a_table_goes_and_the_patient_stays(chest, gap, hollow):
    hu, spacing = chest
    clean = patient_mask(hu, spacing)
    mask = patient_mask(with_table(hu, spacing, gap, hollow), spacing)
    assert clean[hu > -300].mean() > 0.999
    first = back(hu)
    assert (mask[:, :first] != clean[:, :first]).mean() < 0.002
    assert mask[:, first + 3 :].mean() < 0.002


def test_air_in_a_hollow_table_is_no_lung(chest):
    hu, spacing = chest
    volume = without_surroundings(Volume(with_table(hu, spacing, 1, hollow=True), spacing))
    lungs = segment_lungs(volume.hu, spacing)
    assert not lungs[:, back(hu) :].any()
    assert lungs[:, : hu.shape[1]].sum() == pytest.approx(segment_lungs(hu, spacing).sum(), rel=0.01)


def test_wires_beside_the_patient_go(chest):
    hu, spacing = chest
    wired = hu.copy()
    wired[:, 2:4, 50:52] = 2000.0
    assert not patient_mask(wired, spacing)[:, 2:4, 50:52].any()


def test_a_lung_that_the_field_of_view_cuts_is_inside(chest):
    hu, spacing = chest
    lungs = segment_lungs(hu, spacing)
    column = int(np.flatnonzero(lungs.any(axis=(0, 1)))[0]) + 6  # through the right lung
    cut = hu[:, :, column:]
    mask = patient_mask(cut, spacing)
    assert mask[lungs[:, :, column:]].mean() > 0.99
    assert mask.mean() < patient_mask(hu, spacing)[:, :, column:].mean() + 0.01  # the air outside is not


def test_hu_inside_stay_and_outside_is_air(chest):
    hu, spacing = chest
    given = with_table(hu, spacing, 1, hollow=True)
    volume = without_surroundings(Volume(given, spacing))
    mask = patient_mask(given, spacing)
    assert (volume.hu[mask] == given[mask]).mean() > 0.99
    assert (volume.hu[:, back(hu) + 4 :] == AIR_HU).mean() > 0.998
    empty = np.full((8, 8, 8), -1000.0, dtype=np.float32)
    assert np.array_equal(without_surroundings(Volume(empty, spacing)).hu, empty)


def test_marks_stay_and_do_not_open_the_lungs_to_the_air(chest):
    hu, spacing = chest
    lungs = segment_lungs(hu, spacing)
    column = int(np.flatnonzero(lungs.any(axis=(0, 1)))[0]) + 6
    volume = cropped(Volume(hu[:, :, column:], spacing), (slice(-3, len(hu)), slice(0, 96), slice(-4, 80)))
    found = without_surroundings(volume)
    assert np.array_equal(found.hu == NOT_SCANNED_HU, volume.hu == NOT_SCANNED_HU)
    inside = lungs[:, :, column : column + 80]
    assert (found.hu[3:, :, 4:][inside] == hu[:, :, column : column + 80][inside]).mean() > 0.99


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_hulls_of_the_sides_are_those_of_scikit_image(seed):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(12, 60, 80)), [0, 4, 4])
    mask = noise > np.quantile(noise, 0.9)
    mask[3] = False
    expected = [convex_hull_image(axial) if axial.any() else axial for axial in mask]
    np.testing.assert_array_equal(slice_hulls(mask, SIDES), expected)


def test_the_hull_of_corners_holds_centres_on_its_border():
    mask = np.zeros((1, 9, 9), dtype=bool)
    mask[0, 1, 1] = mask[0, 6, 7] = True
    hull = slice_hulls(mask)[0]
    assert hull[1, 1] and hull[6, 7] and not hull[0].any() and not hull[:, 8].any()
    np.testing.assert_array_equal(slice_hulls(mask.transpose(0, 2, 1))[0], hull.T)


def test_runs_at_the_edge_are_lung_by_their_median():
    rng = np.random.default_rng(0)
    edges, hu = rng.random((200, 30)) > 0.6, rng.choice([-1000.0, -940.0, -800.0], size=(200, 30)).astype(np.float32)
    expected = np.zeros_like(edges)
    for found, edge, values in zip(expected, edges, hu, strict=True):
        labels, count = ndimage.label(~edge)
        for run in range(1, count + 1):
            found[labels == run] = np.median(values[labels == run]) > GAS_BELOW_HU
    np.testing.assert_array_equal(lung_runs(edges, hu), expected)


def test_hulls_do_not_depend_on_the_side_and_are_whole_between_separate_parts():
    mask = np.random.default_rng(1).random((20, 15, 18)) > 0.97
    np.testing.assert_array_equal(slice_hulls(mask)[:, :, ::-1], slice_hulls(mask[:, :, ::-1]))
    np.testing.assert_array_equal(slice_hulls(mask)[:, ::-1], slice_hulls(mask[:, ::-1]))
    hull = slice_hulls(mask)
    assert (hull[mask]).all() and (slice_hulls(hull, ((0.0, 0.0),)) == hull).all()
