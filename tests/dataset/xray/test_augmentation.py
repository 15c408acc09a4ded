"""Augmented X-rays agree with a new projection, are deterministic and stay in range."""

import pytest
import torch

from common.errors import UserError
from dataset.imaging.drr import line_integrals, scale_xray
from dataset.imaging.geometry import POSE_FIELDS, project, source_position, unknown_pose, view_pose, voxel_centres
from dataset.xray.augmentation import (
    AppearanceChanges,
    FieldChanges,
    GeometryChanges,
    XrayAugmentation,
    homography,
    move_patient,
    rotate_detector,
)
from dataset.xray.film_changes import mapped, roll_map, shown

EXTENT, SIZE, SPACING = (160.0, 128.0, 176.0), (32, 32, 32), (5.0, 4.0, 5.5)
GEOMETRY = ("zoom", "shift", "roll")
APPEARANCE = ("gamma", "blur", "noise", "local_contrast", "curve", "markers", "lines")
FIELD = ("collimation", "crop", "letterbox", "unmarked")
OFF = dict.fromkeys(GEOMETRY + APPEARANCE + FIELD, 0.0)


def body() -> torch.Tensor:
    """HU of two dense balls, at different depths, in a thin ellipsoid."""
    points = voxel_centres(SIZE, EXTENT)
    hu = torch.where((points / torch.tensor([75.0, 55.0, 80.0])).norm(dim=-1) < 1, -300.0, -1000.0)
    for centre in ((40.0, -35.0, 30.0), (-30.0, 40.0, -45.0)):
        hu = torch.where((points - torch.tensor(centre)).norm(dim=-1) < 14, 900.0, hu)
    return hu


@pytest.mark.parametrize("view", ["PA", "AP", "lateral"])
def test_rotating_the_detector_agrees_with_a_new_projection(view):
    pose = view_pose(EXTENT, view)
    pose[7:9] *= 1.2  # nothing is cut off
    new = rotate_detector(pose, 0.05, -0.04, 1.1)
    assert (source_position(new) - source_position(pose)).norm() < 1e-2
    still = line_integrals(body(), SPACING, pose, (192, 192))
    moved = mapped(still, homography(pose, new))
    projected = line_integrals(body(), SPACING, new, (192, 192))
    known = ~moved.isnan()
    assert known.float().mean() > 0.85
    assert (moved - projected)[known].abs().mean() < 0.006 * projected.max()
    assert (moved - projected)[known].abs().mean() < 0.2 * (still - projected)[known].abs().mean()


def test_the_image_shifts_by_the_given_shares():
    pose = view_pose(EXTENT)
    point = torch.tensor([10.0, 0.0, 20.0])
    before, after = project(point, pose), project(point, rotate_detector(pose, 0.05, 0.03, 1.0))
    assert (after - before).tolist() == pytest.approx([0.1, 0.06], abs=2e-3)  # coordinates run from -1 to 1


def test_a_moved_source_is_rejected_and_a_moved_patient_has_parallax():
    pose = view_pose(EXTENT)
    moved = move_patient(pose, 5.0, 0.0, 1.1)
    assert moved[1] < pose[1] and moved[0] - moved[1] == pytest.approx(float(pose[0] - pose[1]), abs=1e-2)
    with pytest.raises(ValueError, match="source has moved"):
        homography(pose, moved)
    front, back = torch.tensor([0.0, -50.0, 0.0]), torch.tensor([0.0, 50.0, 0.0])
    shift = [project(p, moved)[0] - project(p, pose)[0] for p in (front, back)]
    assert shift[0] * shift[1] < 0  # they move apart


def augmentation(**settings):
    appearance = AppearanceChanges(**{k: settings.pop(k) for k in APPEARANCE if k in settings})
    field = FieldChanges(**{k: settings.pop(k) for k in (*FIELD, "tilt") if k in settings})
    return XrayAugmentation(GeometryChanges(**settings), appearance, field)


def sample(seed=0, step=0, index=0, image=None, pose=None, **settings):
    image = torch.rand(2, 48, 48, generator=torch.Generator().manual_seed(1)) if image is None else image
    pose = torch.stack([view_pose(EXTENT), unknown_pose()[0]]) if pose is None else pose
    return augmentation(**settings)(image, pose, (seed, step, index))


def test_samples_are_determined_by_seed_step_and_index():
    first, again = sample(step=5), sample(step=5)
    torch.testing.assert_close(first, again, rtol=0, atol=0, equal_nan=True)
    for other in (sample(step=6), sample(step=5, index=1), sample(step=5, seed=1)):
        assert not torch.equal(first[0], other[0])


def test_images_stay_in_range_and_poses_of_films_unknown():
    for step in range(20):
        image, pose = sample(step=step, collimation=0.2, markers=1.0, lines=1.0)
        known = image[~image.isnan()]
        assert image.shape == (2, 48, 48) and known.min() >= 0 and known.max() <= 1
        assert len(known) > 0.3 * image.numel()
        assert pose.shape == (2, len(POSE_FIELDS)) and pose[1].isnan().all() and not pose[0].isnan().any()


def test_all_changes_off_is_the_identity():
    image = scale_xray(torch.rand(1, 32, 32))
    same, pose = sample(image=image, pose=view_pose(EXTENT)[None], **OFF)
    torch.testing.assert_close(same, image, atol=1e-4, rtol=0)
    torch.testing.assert_close(pose[0], view_pose(EXTENT), atol=2e-3, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(OFF))
def test_every_change_has_an_effect(name):
    on = {"markers": 1.0, "lines": 1.0, "gamma": 0.5, "blur": 2.0, "local_contrast": 1.0, "curve": 1.0, "roll": 3.0}
    base = {**OFF, "collimation": 0.2} if name == "unmarked" else OFF  # which needs something to mark
    on |= {"collimation": 0.2, "unmarked": 1.0}
    points = torch.linspace(0, 6, 48)
    image = scale_xray(torch.sin(points)[:, None] * torch.cos(points) + 0.1 * torch.rand(48, 48))[None]
    pose = view_pose(EXTENT)[None]
    changed = [
        not torch.allclose(
            sample(step=s, image=image, pose=pose, **{**base, name: on.get(name, 0.1)})[0],
            sample(step=s, image=image, pose=pose, **base)[0],
            atol=1e-3,
            equal_nan=True,
        )
        for s in range(24)
    ]
    assert any(changed)


@pytest.mark.parametrize("name", ["collimation", "crop", "letterbox"])
def test_what_is_not_shown_is_unknown_and_lies_outside(name):
    images = torch.stack([sample(step=s, **{**OFF, name: 0.2})[0][0] for s in range(30)])
    assert 0.01 < images.isnan().float().mean() < 0.3
    assert not images[:, 16:32, 16:32].isnan().any()


def test_unmarked_padding_has_one_grey_value():
    off = {**OFF, "collimation": 0.2, "tilt": 0.0}
    hidden, marked = (sample(step=4, **{**off, "unmarked": share})[0][0] for share in (1.0, 0.0))
    assert not hidden.isnan().any() and torch.equal(hidden[~marked.isnan()], marked[~marked.isnan()])
    assert marked.isnan().any() and len(hidden[marked.isnan()].unique()) == 1


def test_a_film_that_turns_shows_less():
    image = mapped(torch.ones(40, 60), roll_map(10.0, 1.5))
    assert (image.nan_to_num(1.0) - 1.0).abs().max() < 1e-5 and image[0, 0].isnan() and image[-1, -1].isnan()
    there_and_back = mapped(mapped(torch.rand(40, 60).cumsum(0) / 40, roll_map(4.0, 1.5)), roll_map(-4.0, 1.5))
    assert not there_and_back[10:30, 10:50].isnan().any()
    grid = torch.zeros(41, 41)
    grid[20, 35] = 1.0  # right of the centre: counter-clockwise it moves up
    row, column = divmod(int(mapped(grid, roll_map(90.0, 1.0)).nan_to_num(0.0).argmax()), 41)
    assert (row, column) in ((5, 20), (35, 20))


def test_the_blades_of_a_turned_field_are_parallel():
    field = shown((100, 200), (0.1, 0.2, 0.3, 0.1), 0.0)
    assert field[10:80, 60:180].all() and field.sum() == 70 * 120
    assert shown((100, 200), (0.1, 0.2, 0.3, 0.1), 5.0).sum() == pytest.approx(70 * 120, rel=0.02)
    assert shown((50, 50), (0.0, 0.0, 0.0, 0.0), 3.0).mean() > 0.95


def test_reprojection_renders_at_the_returned_pose():
    seen = []

    def render(poses):
        seen.append(poses)
        return torch.rand(1, 48, 48)

    film = augmentation(**{**OFF, "angle": 5.0, "distance": 0.1, "reproject": True})
    _, pose = film(torch.rand(1, 48, 48), view_pose(EXTENT)[None], (0, 0, 0), render)
    torch.testing.assert_close(seen[0], pose)
    assert abs(float(pose[0, 2])) > 0.01


def test_invalid_values_name_their_key():
    with pytest.raises(UserError, match="dataset.film.blur=-1"):
        AppearanceChanges(blur=-1)
    with pytest.raises(UserError, match="reproject=true"):
        GeometryChanges(angle=3.0)
