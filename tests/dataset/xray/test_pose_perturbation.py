"""Perturbed poses stay in their limits; their X-rays have no pose."""

import pytest
import torch
from phantom_sources import phantom_source

from common.errors import UserError
from dataset.imaging.drr import render_xray
from dataset.imaging.drr_options import DrrSettings
from dataset.imaging.geometry import fill_unknown, make_pose
from dataset.phantom.render import draw_for_xrays
from dataset.xray.pose_perturbation import DEGREES, DISTANCE_SHARE, SHIFT_MM, perturbed_poses

EXTENT = (320.0, 256.0, 352.0)


def test_poses_stay_in_their_limits_reach_them_and_repeat():
    nominal = make_pose(EXTENT)[None]
    drawn = torch.stack([perturbed_poses(nominal, (1, i))[0] for i in range(400)])
    away = (drawn - nominal).abs()
    assert torch.equal(drawn[7], perturbed_poses(nominal, (1, 7))[0])
    for column, limit in ((2, DEGREES), (3, DEGREES), (4, SHIFT_MM), (5, SHIFT_MM), (6, SHIFT_MM)):
        assert 0.95 * limit < away[:, column].max() <= limit + 1e-3
    assert 0.95 * DISTANCE_SHARE < (away[:, 0] / nominal[0, 0]).max() <= DISTANCE_SHARE + 1e-6
    torch.testing.assert_close(drawn[:, 0] - drawn[:, 1], (nominal[0, 0] - nominal[0, 1]).expand(400))
    assert torch.equal(drawn[:, 7:], nominal[0, 7:].expand(400, 2))


def test_the_xray_has_the_perturbed_pose_and_the_case_does_not():
    options = {"train": 1, "val": 0, "test": 0, "volume_size": (24, 24, 24), "xray_size": (48, 48), "seed": 5}
    row = {"id": "phantom_00000003"}
    known, secret = (phantom_source(**options, pose_noise=noise) for noise in (False, True))
    plain, case = known.build(row), secret.build(row)
    assert not plain["pose"].isnan().any() and case["pose"].isnan().sum() == 8 and case["pose"][0, 2] == 0.0
    assert torch.equal(plain["ct"], case["ct"])
    shown = draw_for_xrays(3, seed=5, size=(24, 24, 24))
    pose = perturbed_poses(make_pose(EXTENT)[None], (5, 3))
    expected = render_xray(torch.tensor(shown.hu), shown.spacing, pose, (48, 48))
    torch.testing.assert_close(case["xray"].float(), expected, atol=2e-3, rtol=0)
    assert (case["xray"].float() - plain["xray"].float()).abs().mean() > 0.01
    assert known.key(row) != secret.key(row) and "pose_noise" not in known.describe()


def test_two_views_get_the_nominal_poses_of_their_names():
    """A lateral of unknown pose is lifted as a lateral, never as a second frontal."""
    options = {"train": 1, "val": 0, "test": 0, "volume_size": (24, 24, 24), "xray_size": (48, 48), "seed": 5}
    source = phantom_source(**options, views=2, pose_noise=True)
    case = source.build({"id": "phantom_00000003"})
    assert case["pose"].isnan().sum() == 16
    nominal = DrrSettings().poses(EXTENT, 2)
    torch.testing.assert_close(fill_unknown(case["pose"], EXTENT), nominal)
    plain = phantom_source(**options, views=2).build({"id": "phantom_00000003"})["xray"].float()
    away = [(case["xray"].float() - x).abs().mean() for x in (plain, plain.flip(0))]
    assert away[0] < 0.5 * away[1]  # the views stand in the order of their poses


def test_more_views_than_names_are_rejected():
    with pytest.raises(UserError, match="dataset.views=3 with dataset.pose_noise=true.*1 or 2"):
        phantom_source(views=3, pose_noise=True)
