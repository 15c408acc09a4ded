"""DRRs of training CTs at random poses."""

import pytest
import torch
from folder_sources import data_module
from phantom_sources import phantom_source

from common.errors import UserError
from dataset.cases import perturbed_drrs as module
from dataset.cases.perturbed_drrs import posed_drrs
from dataset.imaging.drr import render_xray
from dataset.imaging.drr_options import DrrSettings
from dataset.imaging.geometry import make_pose
from dataset.xray.pose_perturbation import DEGREES, DISTANCE_SHARE, SHIFT_MM

SIZE = {"volume_size": (16, 16, 16), "xray_size": (16, 16), "test": 1, "val": 1}


@pytest.fixture
def cases(tmp_path):
    def make(**options):
        data = data_module(phantom_source(**SIZE, **{"train": 6, **options}), tmp_path)
        return data.train

    return make


def test_drrs_are_rendered_at_their_poses(cases, tmp_path):
    data = cases()
    found = posed_drrs(data, DrrSettings(), tmp_path, 16, workers=0)
    assert found.xray.shape == (6, 1, 1, 16, 16) and found.cases == list(range(6))
    case = data.case(3)
    again = render_xray(case["ct"].float(), case["spacing"].tolist(), found.drawn[3], (16, 16))
    assert (again - found.xray[3, :, 0]).abs().max() <= 0.51 / 255


@pytest.mark.parametrize("options", [{}, {"pose_noise": True}, {"pose_noise": True, "views": 2}])
def test_poses_are_drawn_around_the_nominal_ones_of_the_views(cases, tmp_path, options):
    data = cases(**options)
    found = posed_drrs(data, DrrSettings(), tmp_path, 16, workers=0)
    extent = (320.0, 256.0, 352.0)
    nominal = [make_pose(extent), make_pose(extent, azimuth=90.0)][: options.get("views", 1)]
    assert torch.equal(found.nominal, torch.stack(nominal).expand_as(found.nominal))
    away = (found.drawn - found.nominal).abs()
    assert (away[..., 0] <= DISTANCE_SHARE * found.nominal[..., 0] + 1e-3).all()
    assert (away[..., 2:4] <= DEGREES + 1e-3).all() and (away[..., 4:7] <= SHIFT_MM + 1e-3).all()
    assert (away[..., 2:7].amax(dim=(0, 1)) > 1.0).all()  # and they are drawn at all
    if options:  # not at the secret poses of the data set's own X-rays
        assert not torch.allclose(
            found.xray[:, :, 0], torch.stack([data.condition(i)["xray"][:, 0] for i in range(6)])
        )


def test_drrs_are_rendered_once(cases, tmp_path, monkeypatch):
    data = cases()
    found = posed_drrs(data, DrrSettings(), tmp_path, 16, workers=0)
    monkeypatch.setattr(module._Renderer, "__getitem__", lambda self, i: pytest.fail("rendered again"))
    again = posed_drrs(data, DrrSettings(), tmp_path, 16)
    assert torch.equal(again.xray, found.xray) and torch.equal(again.drawn, found.drawn)
    for drr, pixels in ((DrrSettings(), 8), (DrrSettings(image="linear"), 16)):
        with pytest.raises(pytest.fail.Exception, match="rendered again"):
            posed_drrs(data, drr, tmp_path, pixels, workers=0)


def test_drrs_use_the_drr_settings_of_the_data_set(cases, tmp_path):
    log, linear = (posed_drrs(cases(), DrrSettings(image=i), tmp_path, 16, workers=0) for i in ("log", "linear"))
    assert torch.equal(log.drawn, linear.drawn) and not torch.equal(log.xray, linear.xray)


def test_the_error_names_an_unwritable_folder(cases, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file.*cannot be written.*dataset.cache_dir"):
        posed_drrs(cases(), DrrSettings(), tmp_path / "file", 16, workers=0)


def test_many_cases_are_sampled_evenly(cases, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_CASES", 3)
    assert posed_drrs(cases(), DrrSettings(), tmp_path, 16, workers=0).cases == [0, 2, 5]
