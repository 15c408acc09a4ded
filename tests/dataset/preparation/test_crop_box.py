"""The crop box holds the lungs and their margin; an implausible lung segmentation keeps the body."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from drawn_chest import LUNGS, SIZE, SPACING, chest

from common.errors import UserError
from dataset.imaging.coverage import NOT_SCANNED_HU, cropped
from dataset.imaging.iodine import central_vessel_hu
from dataset.imaging.volume import Volume
from dataset.preparation.crop_box import find_crop_box, lung_volumes, make_segmenter


def test_the_box_holds_the_lungs_with_the_margin():
    volume, margin = chest(), 12.0
    found = find_crop_box(volume, margin=margin)
    assert found.kind == "lungs" and found.flags == []
    lung = np.argwhere(volume.hu < -800)
    inside = lung[(lung[:, 1] > 10) & (np.abs(volume.hu[tuple(lung.T)] + 830) < 1)]
    for part, low, high, s in zip(found.box, inside.min(0), inside.max(0) + 1, SPACING, strict=True):
        assert (low - part.start) * s == pytest.approx(margin, abs=s + 2) and part.start <= low
        assert (part.stop - high) * s == pytest.approx(margin, abs=s + 2) and part.stop >= high


def test_lung_volumes_equal_those_of_the_ellipsoids_by_side():
    found = find_crop_box(chest())
    for measured, side in zip(found.lung_ml, ("right", "left"), strict=True):
        radius = LUNGS[side][1]
        assert measured == pytest.approx(4 / 3 * np.pi * np.prod(radius) / 1000, rel=0.06)
    assert found.lung_ml[0] > found.lung_ml[1]  # the side is the patient's


@pytest.mark.parametrize(
    ("volume", "flag"),
    [
        (chest(lungs=("right",)), "the left lung is missing"),
        (chest(lungs=("left",)), "the right lung is missing"),
        (chest(scale=0.6), "less than 1000"),
        (chest(lungs=()), "lungs of 0 ml"),
    ],
    ids=["no left", "no right", "small", "none"],
)
def test_without_two_lungs_the_body_is_kept_and_flagged(volume, flag):
    found = find_crop_box(volume)
    assert found.kind == "body" and any(flag in one for one in found.flags)
    assert "body kept instead of lungs" in found.flags
    assert found.box[0] == slice(0, SIZE[0])
    assert found.box[1].stop < SIZE[1]  # without the table: 15 mm beyond the body


def test_body_and_whole_on_request():
    volume = chest()
    assert find_crop_box(volume, "whole").box == tuple(slice(0, n) for n in SIZE)
    body, lungs = find_crop_box(volume, "body", margin=0.0), find_crop_box(volume, "lungs", margin=0.0)
    assert body.kind == "body" and body.flags == []
    assert all(b.start <= s.start and b.stop >= s.stop for b, s in zip(body.box, lungs.box, strict=True))


def test_lungs_cut_by_the_scan_are_flagged():
    volume = chest()
    assert find_crop_box(volume).flags == []
    part = Volume(volume.hu[30:], SPACING)
    assert "lungs cut at the bottom of the scan" in find_crop_box(part, min_lung_ml=100).flags
    assert "lungs cut at the top of the scan" in find_crop_box(Volume(volume.hu[:30], SPACING), min_lung_ml=100).flags


def test_the_box_keeps_its_margin_where_the_scan_ends():
    whole, margin = find_crop_box(chest()), 15.0
    part = Volume(chest().hu[16:], SPACING)  # ends 35 mm above the lowest lung
    found = find_crop_box(part, margin=margin, min_lung_ml=100)
    assert found.box[0].start == -3 and found.box[0].stop + 16 == whole.box[0].stop
    assert any(flag.startswith("scan ends 15 mm before the box at the bottom") for flag in found.flags)
    box = cropped(part, found.box)
    assert (box.hu[:3] == NOT_SCANNED_HU).all() and (box.hu[3:] != NOT_SCANNED_HU).all()
    assert not any("scan ends" in flag for flag in whole.flags)


def test_the_side_of_the_field_of_view_that_cuts_the_patient_is_named():
    found = find_crop_box(Volume(chest().hu[:, :, 14:], SPACING), margin=40.0, min_lung_ml=100)
    assert [flag for flag in found.flags if "scan ends" in flag and "right" in flag]


def test_a_body_without_lungs_stays_within_the_scan():
    found = find_crop_box(chest(lungs=()))
    assert all(part.start >= 0 and part.stop <= n for part, n in zip(found.box, SIZE, strict=True))


def test_cropping_moves_nothing():
    volume = chest()
    tilted = Volume(volume.hu, SPACING, volume.centre, np.array([[0.0, 0.1, -0.995], [0.0, -0.995, -0.1], [1, 0, 0]]))
    for one in (volume, tilted):
        part = cropped(one, (slice(5, 50), slice(11, 60), slice(20, 91)))
        voxel = np.array([30, 20, 10, 1.0])  # w, h, d of the crop
        np.testing.assert_allclose(part.affine @ voxel, one.affine @ (voxel + [20, 11, 5, 0]), atol=1e-4)
        np.testing.assert_array_equal(part.hu, one.hu[5:50, 11:60, 20:91])


def test_lung_volumes_by_side_of_the_body_not_of_the_image():
    volume = chest()
    shifted = Volume(np.roll(volume.hu, 12, axis=2), SPACING)
    lungs = np.abs(shifted.hu + 830) < 1
    assert lung_volumes(lungs, shifted) == pytest.approx(lung_volumes(np.roll(lungs, -12, axis=2), volume))


@pytest.mark.parametrize(("blood", "low", "high"), [(45.0, 35.0, 60.0), (300.0, 240.0, 305.0)])
def test_central_vessels_with_and_without_contrast(blood, low, high):
    found = find_crop_box(chest(blood=blood))
    assert low < central_vessel_hu(found.coarse, found.lungs) < high


def test_another_segmenter_replaces_the_threshold():
    mask = lambda hu, spacing: (hu < -800) & (np.indices(hu.shape)[1] > 5)  # noqa: E731
    assert sum(find_crop_box(chest(), segmenter=mask).lung_ml) > sum(find_crop_box(chest()).lung_ml)


def install_lungmask(monkeypatch, inferer):
    modules = (
        SimpleNamespace(LMInferer=inferer),
        SimpleNamespace(MODEL_URLS={"R231": ("https://example.org/r.pth", 3)}),
    )
    for name, module in zip(("lungmask", "lungmask.mask"), modules, strict=True):
        monkeypatch.setitem(sys.modules, name, module)


def test_unknown_segmenters_and_missing_weights_are_refused(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="segmenter=fancy: choose threshold or lungmask"):
        make_segmenter("fancy")
    monkeypatch.setitem(sys.modules, "lungmask", None)
    with pytest.raises(UserError, match="pip install lungmask"):
        make_segmenter("lungmask")
    install_lungmask(monkeypatch, object)
    with pytest.raises(UserError, match="no weights at .*none.pth.*lungmask_weights"):
        make_segmenter("lungmask", tmp_path / "none.pth")


def test_lungmask_runs_on_the_volume_with_its_weights(monkeypatch, tmp_path):
    class Inferer:
        def __init__(self, modelpath, force_cpu, tqdm_disable):
            assert modelpath.endswith("weights.pth") and force_cpu

        def apply(self, image):
            return np.where(image < -800, 1, 0).astype(np.uint8)

    install_lungmask(monkeypatch, Inferer)
    (tmp_path / "weights.pth").write_bytes(b"")
    hu = chest().hu
    np.testing.assert_array_equal(make_segmenter("lungmask", tmp_path / "weights.pth")(hu, SPACING), hu < -800)
