"""The options of DRRs: views in the standard display, distances, detectors, grey scales."""

import numpy as np
import pytest
import torch

from common.errors import UserError
from dataset.imaging.drr import line_integrals, render_xray, scale_xray
from dataset.imaging.drr_options import DrrSettings
from dataset.imaging.geometry import project, voxel_centres
from dataset.imaging.volume import Volume

EXTENT, SIZE, SPACING = (160.0, 128.0, 176.0), (32, 32, 32), (5.0, 4.0, 5.5)


def ball(centre, radius=14.0) -> torch.Tensor:
    distance = (voxel_centres(SIZE, EXTENT) - torch.as_tensor(centre)).norm(dim=-1)
    return -1000.0 + 2000.0 * (0.5 - (distance - radius) / 5.0).clamp(0.0, 1.0)


@pytest.mark.parametrize("view", ["PA", "AP"])
def test_both_frontal_views_show_the_patients_right_on_the_left(view):
    pose = DrrSettings(view=view).poses(EXTENT)[0]
    centre = torch.tensor([35.0, 20.0, -50.0])  # superior, right
    image = line_integrals(ball(centre), SPACING, pose, (96, 96))
    row, column = divmod(int(image.argmax()), 96)
    assert row < 45 and column < 40
    expected = (project(centre, pose) + 1) / 2 * 96 - 0.5
    assert column == pytest.approx(float(expected[0]), abs=2) and row == pytest.approx(float(expected[1]), abs=2)


def test_the_heart_is_larger_in_ap_than_in_pa():
    front, back = torch.tensor([0.0, -40.0, 30.0]), torch.tensor([0.0, 40.0, 30.0])
    ratio = {}
    for view in ("PA", "AP"):
        pose = DrrSettings(view=view).poses(EXTENT)[0]
        ratio[view] = float(project(front, pose)[0] / project(back, pose)[0])
    assert ratio["PA"] < 1 < ratio["AP"]


def test_distance_and_detector_follow_the_options():
    pose = DrrSettings(source_detector=1500.0, field=(350.0, 430.0)).poses(EXTENT)[0]
    assert pose[0] == 1500.0 and pose[7:9].tolist() == [350.0, 430.0]
    assert DrrSettings(view="AP").poses(EXTENT)[0, 0] == 1200.0
    assert DrrSettings(view="AP", field=(350.0, 430.0)).poses(EXTENT)[0, 7:9].tolist() == [350.0, -430.0]


def test_views_spread_over_180_degrees_from_the_frontal():
    np.testing.assert_allclose(DrrSettings().poses(EXTENT, 2)[:, 2], [0, 90])
    np.testing.assert_allclose(DrrSettings().poses(EXTENT, 3)[:, 2], [0, 60, 120])
    np.testing.assert_allclose(DrrSettings(view="AP").poses(EXTENT, 2)[:, 2], [180, 90])


def test_the_linear_image_is_the_beer_lambert_transmission():
    hu, pose = ball((20.0, 10.0, 40.0)), DrrSettings().poses(EXTENT)
    linear = render_xray(hu, SPACING, pose, (64, 64), image="linear")[0]
    expected = scale_xray(1.0 - torch.exp(-line_integrals(hu, SPACING, pose[0], (64, 64))))
    torch.testing.assert_close(linear, expected, atol=1e-5, rtol=0)
    assert not torch.allclose(linear, render_xray(hu, SPACING, pose, (64, 64))[0], atol=0.02)


def test_iodine_is_removed_only_on_request(monkeypatch):
    monkeypatch.setattr("dataset.imaging.drr_options.remove_iodine", lambda hu, spacing: np.minimum(hu, 40.0))
    volume = Volume(ball((0.0, 0.0, 0.0), 30.0).numpy(), SPACING)
    images = [DrrSettings(remove_iodine=r).render(volume, DrrSettings().poses(EXTENT), (48, 48)) for r in (0, 1)]
    assert not torch.equal(*images)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"view": "lateral"}, "drr_view=lateral"),
        ({"image": "sqrt"}, "drr_image=sqrt"),
        ({"source_detector": -1}, "drr_distance=-1"),
        ({"field": [400]}, "drr_field"),
        ({"field": [400, 0]}, "drr_field"),
    ],
)
def test_wrong_options_name_their_key(options, key):
    with pytest.raises(UserError, match=f"dataset.{key}"):
        DrrSettings(**options)


def test_a_source_inside_the_patient_is_rejected():
    with pytest.raises(UserError, match="dataset.drr_distance=200"):
        DrrSettings(source_detector=200).poses(EXTENT)
