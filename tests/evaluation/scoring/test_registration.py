"""A known rigid motion is found again, nothing is made worse, and it is the same each time."""

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from dataset.phantom.render import render_phantom
from evaluation.scoring.registration import register_rigid

SPACING = (8.0, 6.4, 8.8)


@pytest.fixture(scope="module")
def volume():
    return torch.from_numpy(np.asarray(render_phantom(3, size=(40, 40, 40)).hu_plain, dtype=np.float32))


def moved(volume, rotation, shift):
    """The volume turned by degrees about (D, H, W), then shifted by mm, by SimpleITK's own sampling."""
    image = sitk.GetImageFromArray(volume.numpy())
    image.SetSpacing(SPACING[::-1])
    motion = sitk.Euler3DTransform()
    motion.SetCenter(image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()]))
    about_d, about_h, about_w = np.radians(rotation)
    motion.SetRotation(about_w, about_h, about_d)
    motion.SetTranslation([float(s) for s in shift[::-1]])
    # content moves by `motion` if it is sampled through its inverse
    found = sitk.Resample(image, image, motion.GetInverse(), sitk.sitkLinear, -1024.0)
    return torch.from_numpy(sitk.GetArrayFromImage(found))


@pytest.mark.parametrize(
    ("rotation", "shift"),
    [
        ((0, 0, 0), (15.0, 0.0, 0.0)),
        ((0, 0, 0), (-10.0, 9.0, -20.0)),
        ((6.0, 0, 0), (0, 0, 0)),
        ((0, 5.0, 0), (8, 0, 6)),
    ],
)
def test_a_known_motion_is_taken_back(volume, rotation, shift):
    away = moved(volume, rotation, shift)
    back, motion = register_rigid(away, volume, SPACING)
    # small angles: the way back is about the way there, turned round
    assert np.array(motion.shift) == pytest.approx(-np.array(shift, dtype=float), abs=3.0)
    assert np.array(motion.rotation) == pytest.approx(-np.array(rotation, dtype=float), abs=1.2)
    inside = (slice(8, -8),) * 3
    assert (back - volume)[inside].abs().mean() < 0.65 * (away - volume)[inside].abs().mean()
    assert motion.similarity > motion.before


def test_a_volume_in_its_place_stays_there(volume):
    noisy = volume + 20 * torch.randn(volume.shape, generator=torch.Generator().manual_seed(0))
    _, motion = register_rigid(noisy, volume, SPACING)
    assert max(map(abs, motion.shift)) < 1.0 and max(map(abs, motion.rotation)) < 0.5


def test_it_is_the_same_each_time(volume):
    away = moved(volume, (3.0, 0, 0), (5.0, 4.0, 0))
    first, second = register_rigid(away, volume, SPACING), register_rigid(away, volume, SPACING)
    assert torch.equal(first[0], second[0]) and first[1] == second[1]


def test_where_nothing_can_be_found_nothing_moves(volume):
    for other in (torch.full_like(volume, -1000.0), torch.full_like(volume, 40.0)):
        same, motion = register_rigid(other, volume, SPACING)
        assert torch.equal(same, other) and motion.shift == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="differ in size"):
        register_rigid(volume[:-1], volume, SPACING)
