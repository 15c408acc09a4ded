"""Laws of the axes: the cone beam, the affine of a file, and the display."""

import numpy as np
import pytest
import torch

from dataset.imaging.geometry import (
    DISPLAY_MARKS,
    camera_axes,
    display_slice,
    extent_mm,
    fill_unknown,
    make_pose,
    nifti_affine,
    project,
    source_position,
    unknown_pose,
    view_pose,
    voxel_centres,
)

EXTENT = (320.0, 256.0, 352.0)
ANGLES = [(0.0, 0.0), (90.0, 0.0), (180.0, 0.0), (35.0, 12.0), (-60.0, -20.0)]


@pytest.mark.parametrize("azimuth, elevation", ANGLES)
def test_camera_axes_are_orthonormal(azimuth, elevation):
    axes = torch.stack(camera_axes(make_pose(EXTENT, azimuth, elevation)))
    assert torch.allclose(axes @ axes.T, torch.eye(3), atol=1e-6)


@pytest.mark.parametrize("azimuth, elevation", ANGLES)
def test_the_isocentre_projects_to_the_centre_of_the_field(azimuth, elevation):
    pose = make_pose(EXTENT, azimuth, elevation)
    pose[4:7] = torch.tensor([11.0, -7.0, 5.0])
    assert torch.allclose(project(pose[4:7], pose), torch.zeros(2), atol=1e-6)
    assert (source_position(pose) - pose[4:7]).norm() == pytest.approx(float(pose[1]), rel=1e-6)


def test_a_frontal_beam_comes_from_behind():
    source = source_position(make_pose(EXTENT))
    assert source[1] > 1000  # h grows toward the back
    assert source[[0, 2]].abs().max() < 1e-3
    assert source_position(make_pose(EXTENT, 90.0))[2] < -1000  # lateral: from the patient's right
    assert source_position(make_pose(EXTENT, 0.0, 10.0))[0] > 100  # elevation lifts the source


def test_the_frontal_image_has_superior_on_top_and_the_patients_right_on_the_left():
    pose = make_pose(EXTENT)
    right, left, up, down = project(
        torch.tensor([[0.0, 0.0, -50.0], [0.0, 0.0, 50.0], [50.0, 0.0, 0.0], [-50.0, 0.0, 0.0]]), pose
    )
    assert right[0] < 0 < left[0] and up[1] < 0 < down[1]


def test_magnification_is_the_ratio_of_the_distances():
    pose = make_pose(EXTENT)
    at = project(torch.tensor([[0.0, 0.0, 10.0], [0.0, 100.0, 10.0]]), pose)[:, 0] * pose[8] / 2
    assert at[0] == pytest.approx(10.0 * float(pose[0] / pose[1]), rel=1e-5)
    assert at[1] == pytest.approx(10.0 * float(pose[0] / (pose[1] - 100.0)), rel=1e-5)  # nearer to the source


@pytest.mark.parametrize("azimuth", [0.0, 90.0, 180.0, -90.0])
def test_the_field_fits_the_volume(azimuth):
    corners = torch.cartesian_prod(*[torch.tensor([-e / 2, e / 2]) for e in EXTENT])
    reach = project(corners, make_pose(EXTENT, azimuth)).abs().max()
    assert reach == pytest.approx(1.0, abs=1e-4)


def test_only_unknown_poses_are_filled():
    known = make_pose((100.0, 100.0, 100.0), 90.0)
    filled = fill_unknown(torch.stack([known, unknown_pose()[0]]), EXTENT)
    assert torch.equal(filled[0], known) and torch.equal(filled[1], make_pose(EXTENT))


def test_an_incomplete_pose_is_filled_by_its_view():
    poses = unknown_pose(4, ["PA", "lateral", "AP"])
    assert poses[:, 2].tolist()[:3] == [0.0, 90.0, 180.0] and poses[3].isnan().all()
    filled = fill_unknown(poses, EXTENT)
    for pose, view in zip(filled, ("PA", "lateral", "AP", "PA"), strict=True):
        assert torch.equal(pose, view_pose(EXTENT, view))
    batch = fill_unknown(poses[None].expand(3, -1, -1), EXTENT)
    assert torch.equal(batch[2], filled)


def test_another_view_is_rejected():
    with pytest.raises(ValueError, match="view=oblique: choose PA, AP, lateral"):
        view_pose(EXTENT, "oblique")


def test_voxel_centres_fill_the_extent_around_zero():
    centres = voxel_centres((4, 5, 6), (40.0, 50.0, 60.0))
    assert centres.shape == (4, 5, 6, 3)
    assert torch.allclose(centres.mean(dim=(0, 1, 2)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(centres[1, 1, 1] - centres[0, 0, 0], torch.full((3,), 10.0))
    assert torch.allclose(centres[0, 0, 0], torch.tensor([-15.0, -20.0, -25.0]))


def test_the_affine_has_the_centre_and_the_axes():
    spacing, size, centre = (2.0, 0.7, 0.8), (30, 40, 51), (5.0, -6.0, 7.0)
    affine = nifti_affine(spacing, centre, size)
    middle = np.array([(size[2] - 1) / 2, (size[1] - 1) / 2, (size[0] - 1) / 2, 1.0])
    assert np.allclose(affine @ middle, [*centre, 1.0])
    assert np.allclose(affine[:3, :3], np.diag([-0.8, -0.7, 2.0]))  # W to the left, H to the back, D upward, in RAS


def test_extent_is_edge_to_edge():
    assert extent_mm((64, 32, 16), (5.0, 4.0, 2.5)) == (320.0, 128.0, 40.0)


@pytest.mark.parametrize("make", [torch.zeros, np.zeros])
def test_display_puts_superior_up_right_left_and_anterior_up_or_left(make):
    volume = make((4, 5, 6))
    volume[3, 2, 3] = 1  # superior, in the middle slices
    volume[2, 0, 3] = 2  # anterior
    volume[2, 2, 0] = 3  # the patient's right
    coronal, sagittal, axial = (display_slice(volume, plane) for plane in ("coronal", "sagittal", "axial"))
    assert coronal.shape == (4, 6) and sagittal.shape == (4, 5) and axial.shape == (5, 6)
    assert coronal[0, 3] == 1 and coronal[1, 0] == 3
    assert sagittal[0, 2] == 1 and sagittal[1, 0] == 2
    assert axial[0, 3] == 2 and axial[2, 0] == 3
    assert display_slice(volume, "axial", 3)[2, 3] == 1
    assert set(DISPLAY_MARKS) == {"axial", "coronal", "sagittal"}


@pytest.mark.parametrize("azimuth", [0.0, 20.0, 36.0, 72.0, 90.0])
def test_views_from_both_sides_of_the_frontal_have_one_field(azimuth):
    """A symmetric body needs the same field from left and right, and from behind and before."""
    fields = {round(float(make_pose((300.0, 250.0, 400.0), a)[7]), 3) for a in (azimuth, -azimuth, 180.0 - azimuth)}
    assert len(fields) == 1
