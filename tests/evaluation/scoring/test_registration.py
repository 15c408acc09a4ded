"""Registration undoes a known rigid motion, changes nothing where it finds none, and is deterministic."""

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from dataset.phantom.render import render_phantom
from evaluation.scoring.registration import rigidly_aligned

SPACING = (8.0, 6.4, 8.8)


@pytest.fixture(scope="module")
def volume():
    return torch.from_numpy(np.asarray(render_phantom(3, size=(40, 40, 40)).hu_plain, dtype=np.float32))


def moved(volume, rotation, shift):
    """The volume rotated by degrees about (D, H, W), then shifted by mm."""
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
def test_a_known_motion_is_undone(volume, rotation, shift):
    away = moved(volume, rotation, shift)
    back = rigidly_aligned(away, volume, SPACING)
    inside = (slice(8, -8),) * 3
    assert (back - volume)[inside].abs().mean() < 0.65 * (away - volume)[inside].abs().mean()
    # threads of ITK add in any order, so the last of the six rounded digits of a motion may differ
    assert (rigidly_aligned(away, volume, SPACING) - back).abs().max() < 0.5


def test_an_aligned_volume_moves_less_than_a_millimetre(volume):
    noise = 20 * torch.randn(volume.shape, generator=torch.Generator().manual_seed(0))
    still = rigidly_aligned(volume + noise, volume, SPACING)
    assert (still - volume).abs().mean() < 1.1 * noise.abs().mean()


def test_volumes_without_structure_are_unchanged(volume):
    for other in (torch.full_like(volume, -1000.0), torch.full_like(volume, 40.0)):
        assert torch.equal(rigidly_aligned(other, volume, SPACING), other)
    with pytest.raises(ValueError, match="differ in size"):
        rigidly_aligned(volume[:-1], volume, SPACING)
