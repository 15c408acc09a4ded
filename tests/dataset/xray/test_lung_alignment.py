"""Lung alignment maps the lung box of an X-ray onto that of the training volumes."""

import numpy as np
import pytest
import torch

from dataset.imaging.drr import render_xray
from dataset.imaging.geometry import make_pose, view_pose
from dataset.imaging.lung_box import lung_box_in_volume
from dataset.imaging.lung_network import lung_box_in_image
from dataset.io.ct import read_volume
from dataset.io.xray import find_xrays, read_xray
from dataset.phantom.render import render_phantom
from dataset.xray.lung_alignment import LungMap, expected_box, lung_map


def overlap(a, b) -> float:
    """Intersection over union of boxes (top, bottom, left, right)."""
    down, across = min(a[1], b[1]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[2], b[2])
    both = max(0.0, down) * max(0.0, across)
    area = [(box[1] - box[0]) * (box[3] - box[2]) for box in (a, b)]
    return float(both / (sum(area) - both))


@pytest.fixture(scope="module")
def phantoms():
    """`(X-ray, extent, lung box of the volume)` of a few."""
    made = []
    for index in range(6):
        phantom = render_phantom(index, seed=4, size=(48, 48, 48))
        extent = tuple(n * s for n, s in zip(phantom.hu.shape, phantom.spacing, strict=True))
        hu = torch.from_numpy(np.asarray(phantom.hu_plain, dtype=np.float32))
        xray = render_xray(hu, phantom.spacing, make_pose(extent)[None], (128, 128))[0]
        made.append((xray, extent, lung_box_in_volume(phantom.hu, phantom.spacing)))
    return made


def test_the_box_in_the_image_is_the_projection_of_the_box_in_the_volume(phantoms):
    found = [overlap(lung_box_in_image(xray), expected_box(box, extent)) for xray, extent, box in phantoms]
    assert np.mean(found) > 0.8 and min(found) > 0.65


def test_the_volume_box_follows_the_lungs():
    hu = np.full((40, 40, 40), -1000.0, dtype=np.float32)
    hu[:, 4:36, 4:36] = 40
    hu[10:30, 8:32, 6:17] = -850
    hu[10:30, 8:32, 23:34] = -850
    box = lung_box_in_volume(hu, (6.0, 6.0, 6.0))
    assert box.tolist() == pytest.approx([0.25, 0.75, 0.2, 0.8, 0.15, 0.85], abs=0.03)
    assert lung_box_in_volume(np.full((8, 8, 8), 40.0), (5.0, 5.0, 5.0)).isnan().all()


def test_the_box_moves_with_the_image(phantoms):
    xray, extent, _ = phantoms[3]
    first = lung_box_in_image(xray).tolist()
    pushed = LungMap((0.2, 0.8, 0.2, 0.8), (0.25, 0.75, 0.3, 0.8)).apply(xray)
    second = lung_box_in_image(pushed)
    expected = [0.25 + (first[0] - 0.2) / 0.6 * 0.5, 0.25 + (first[1] - 0.2) / 0.6 * 0.5]
    expected += [0.3 + (first[2] - 0.2) / 0.6 * 0.5, 0.3 + (first[3] - 0.2) / 0.6 * 0.5]
    assert second.tolist() == pytest.approx(expected, abs=0.04)


def test_a_map_aligns_the_found_box_with_its_target():
    image = torch.zeros(100, 100)
    image[20:60, 30:80] = 1.0
    aligned = LungMap((0.2, 0.6, 0.3, 0.8), (0.5, 0.9, 0.1, 0.35)).apply(image).nan_to_num(0.0)
    assert aligned[52:88, 12:33].min() > 0.99 and aligned[:48].max() == 0 and aligned[:, 37:].max() == 0
    assert LungMap((0.2, 0.6, 0.3, 0.8), (0.5, 0.9, 0.1, 0.35)).scale == pytest.approx((1.0, 0.5))


def test_an_off_centre_drr_is_aligned(phantoms):
    mean = torch.stack([box for _, _, box in phantoms]).mean(dim=0)
    xray, extent, _ = phantoms[1]
    off = LungMap((0.1, 0.9, 0.1, 0.9), (0.2, 0.85, 0.05, 0.75)).apply(xray)
    mapped = lung_map(off, mean, extent)
    target = expected_box(mean, extent)
    assert overlap(lung_box_in_image(mapped.apply(off)), target) > 0.85
    assert overlap(lung_box_in_image(off), target) < 0.75
    assert mapped.describe()["align"] == "lungs" and len(mapped.describe()["found"]) == 4


def test_no_lungs_no_map():
    assert lung_map(torch.zeros(64, 64), [0.2, 0.8] * 3, (300.0, 250.0, 350.0)) is None
    assert lung_map(torch.linspace(0, 1, 64).expand(64, 64), [0.2, 0.8] * 3, (300.0, 250.0, 350.0)) is None
    assert not LungMap((0.4, 0.6, 0.1, 0.9), (0.1, 0.9, 0.1, 0.9)).plausible


def test_an_ap_view_expects_the_lungs_on_the_same_side():
    box, extent = [0.2, 0.8, 0.3, 0.7, 0.1, 0.6], (300.0, 250.0, 350.0)
    pa, ap = (expected_box(box, extent, view) for view in ("PA", "AP"))
    assert ap[2] < ap[3] and ap[2] == pytest.approx(pa[2], abs=0.05)
    assert view_pose(extent, "AP")[8] < 0


def test_real_radiographs_have_a_box_of_plausible_shape(real_data):
    for path in find_xrays(real_data / "xray"):
        top, bottom, left, right = lung_box_in_image(read_xray(path, (224, 224))).tolist()
        assert 0.0 <= top < 0.3 and 0.5 < bottom < 0.95, path.name
        assert left < 0.35 and right > 0.6, path.name
        assert 0.5 < (bottom - top) / (right - left) < 1.5, path.name


@pytest.mark.parametrize("name", ["lidc-idri-0001_ctiv", "cip-ct64_ct"])
def test_in_drrs_of_real_cts_the_box_is_where_the_lungs_are(real_data, name):
    volume = read_volume(real_data / "ct" / f"{name}.nii.gz")
    xray = render_xray(torch.from_numpy(volume.hu), volume.spacing, make_pose(volume.extent)[None], (128, 128))[0]
    expected = expected_box(lung_box_in_volume(volume.hu, volume.spacing), volume.extent)
    assert overlap(lung_box_in_image(xray), expected) > 0.75
