"""Iodine is detected in phantoms without bone, and a DRR without it is closer to the unenhanced one."""

import numpy as np
import pytest
import torch

from dataset.imaging.drr import render_xray
from dataset.imaging.geometry import make_pose
from dataset.imaging.iodine import CONTRAST_ML, iodine_mask, iodine_ml, remove_iodine
from dataset.io.ct import read_volume
from dataset.phantom.render import LABELS, render_phantom


@pytest.fixture(scope="module", params=[0, 2])
def phantom(request):
    return render_phantom(request.param, size=(64, 64, 64))


def test_iodine_is_detected_and_bone_is_not(phantom):
    true = (phantom.hu > 150) & (phantom.hu_plain <= 150)
    found, bone = iodine_mask(phantom.hu, phantom.spacing), phantom.labels == LABELS["bone"]
    assert (found & true).sum() > 0.7 * true.sum()
    assert (found & bone).sum() < 0.02 * bone.sum()
    assert ((phantom.hu > 150) & ~found & bone).sum() > 0.97 * (bone & (phantom.hu > 150)).sum()


def test_flooding_the_surroundings_of_the_spine_is_flooding_the_volume(phantom, monkeypatch):
    found = iodine_mask(phantom.hu, phantom.spacing)
    monkeypatch.setattr("dataset.imaging.iodine.THICKEST_MM", 1000.0)
    np.testing.assert_array_equal(found, iodine_mask(phantom.hu, phantom.spacing))


def test_without_iodine_the_xray_is_closer_to_the_unenhanced_one(phantom):
    pose = make_pose(tuple(n * s for n, s in zip(phantom.hu.shape, phantom.spacing, strict=True)))[None]
    cleaned = remove_iodine(phantom.hu, phantom.spacing)
    shown, removed, plain = (
        render_xray(torch.from_numpy(np.asarray(hu, dtype=np.float32)), phantom.spacing, pose)
        for hu in (phantom.hu, cleaned, phantom.hu_plain)
    )
    assert (removed - plain).abs().mean() < 0.6 * (shown - plain).abs().mean()
    # lungs and fat are left alone
    assert np.array_equal(cleaned[phantom.hu < 0], np.asarray(phantom.hu, dtype=np.float32)[phantom.hu < 0])


def test_the_volume_identifies_a_contrast_ct(phantom):
    assert iodine_ml(phantom.hu, phantom.spacing) > 3 * CONTRAST_ML
    assert iodine_ml(phantom.hu_plain, phantom.spacing) < CONTRAST_ML


def test_without_lungs_the_mask_is_empty():
    hu = np.full((12, 12, 12), 40.0)
    hu[4:8, 4:8, 4:8] = 400
    assert not iodine_mask(hu, (4.0, 4.0, 4.0)).any()
    assert np.array_equal(remove_iodine(hu, (4.0, 4.0, 4.0)), hu)


@pytest.mark.parametrize(
    ("name", "contrast"),
    [("part-rider-pilot-0117_ctpa", True), ("lung-pet-ct-dx-a0002_ct", False), ("part-lungfcp-01-0001_ct", False)],
)
def test_real_cts_with_and_without_contrast(real_data, name, contrast):
    volume = read_volume(real_data / "ct" / f"{name}.nii.gz")
    assert (iodine_ml(volume.hu, volume.spacing) > CONTRAST_ML) == contrast
