"""Re-projection leaves out what the X-ray does not show."""

import math

import pytest
import torch

from dataset.imaging.drr import line_integrals, scale_xray
from dataset.imaging.drr_options import DrrSettings
from dataset.imaging.forward_model import ForwardModel
from dataset.imaging.geometry import make_pose
from dataset.imaging.hu_window import Window
from dataset.imaging.volume import Volume
from dataset.phantom.render import render_phantom
from evaluation.metrics.base import CaseView
from evaluation.metrics.catalogue import measure
from evaluation.metrics.reprojection import FORWARD_MODEL, reprojection_error, scaled_drr

TOOLS = {FORWARD_MODEL: ForwardModel()}


def test_unknown_pixels_are_left_out():
    generator = torch.Generator().manual_seed(0)
    drr, xray = torch.rand(2, 3, 20, 30, generator=generator)
    assert torch.equal(reprojection_error(drr, xray), (drr - xray).abs().mean(dim=(-2, -1)))
    hidden = xray.clone()
    hidden[..., 12:] = math.nan
    torch.testing.assert_close(reprojection_error(drr, hidden), reprojection_error(drr[..., :12], xray[..., :12]))
    assert reprojection_error(drr, torch.full_like(xray, math.nan)).isnan().all()
    assert reprojection_error(torch.full((4, 4), math.nan), torch.zeros(4, 4)).isnan()


def test_the_drr_is_scaled_where_the_xray_is_known():
    """A film that shows a part of a volume differs from the DRR of this volume by nothing there."""
    hu = torch.full((24, 24, 24), -1000.0)
    hu[4:20, 6:18, 3:21] = 0.0
    hu[6:9, 8:12, 16:20] = 1500.0  # dense, at the side that the film does not show
    pose = make_pose((240.0, 240.0, 240.0))
    integrals = line_integrals(hu, (10.0, 10.0, 10.0), pose, (32, 32))
    film = scale_xray(integrals[:, :18])
    xray = torch.cat([film, torch.full((32, 14), math.nan)], dim=1)
    drr = scaled_drr(hu, (10.0, 10.0, 10.0), tuple(pose.tolist()), (32, 32), ~xray.isnan())
    assert reprojection_error(drr, xray) < 1e-6
    whole = scaled_drr(hu, (10.0, 10.0, 10.0), tuple(pose.tolist()), (32, 32))
    assert reprojection_error(whole, xray) > 0.01
    case = {"ct": hu, "xray": xray[None], "pose": pose[None], "spacing": torch.full((3,), 10.0)}
    values, reasons = measure(["reprojection"], CaseView(case, hu[None], Window(-1000.0, 2000.0), tools=TOOLS))
    assert not reasons and float(values["reprojection"][0]) < 1e-6


@pytest.mark.parametrize("image", ["log", "linear"])
def test_the_noise_floor_is_what_noise_adds_to_the_error_of_the_truth(image):
    """Mean over 20 X-rays of the same volume; no such metric for X-rays without noise."""
    phantom = render_phantom(4, size=(40, 32, 44))
    volume, size = Volume(phantom.hu_plain, phantom.spacing), (96, 96)
    settings = DrrSettings(image=image, photons=2e5)
    poses, model = settings.poses(volume.extent), ForwardModel.of_protocol({"forward_model": settings.forward_model()})
    quiet = DrrSettings(image=image).render(volume, poses, size)[0]
    noisy = torch.stack([settings.render(volume, poses, size, (number,))[0] for number in range(20)])
    found = float((noisy - quiet).abs().mean())
    case = {
        "ct": torch.from_numpy(volume.hu),
        "xray": noisy[:1],
        "pose": poses,
        "spacing": torch.tensor(volume.spacing),
    }
    window = Window(-1024.0, 3000.0)
    view = CaseView(case, torch.zeros(2, *volume.hu.shape), window, tools={FORWARD_MODEL: model})
    values, reasons = measure(["reprojection_noise"], view)
    first, second = values["reprojection_noise"]
    assert not reasons and first == second and float(first) == pytest.approx(found, rel=0.15)
    _, reasons = measure(["reprojection_noise"], CaseView(case, view.predictions, window, tools=TOOLS))
    assert "no quantum noise" in reasons["reprojection_noise"]
