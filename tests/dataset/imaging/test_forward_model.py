"""The forward model: attenuation maps with their numbers, and the truth's own error for every source of cases."""

import json

import numpy as np
import pytest
import torch

from common.errors import UserError
from dataset.imaging.drr import forward_image, line_integrals, scale_xray
from dataset.imaging.drr_options import DrrSettings
from dataset.imaging.forward_model import MAPS, NOT_DRAWN, REMOVED, ForwardModel, attenuation_map
from dataset.imaging.geometry import make_pose
from dataset.imaging.resampling import downsample
from dataset.imaging.volume import Volume
from dataset.phantom.render import draw_for_xrays, render_phantom
from dataset.sources.phantom import PhantomSource, Population
from dataset.sources.settings import Geometry, Xrays

SIZE, SPACING, EXTENT = (32, 32, 32), (5.0, 4.0, 5.5), (160.0, 128.0, 176.0)


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("hu", [-1000.0, -600.0, 0.0, 50.0, 1000.0, 2000.0])
def test_a_block_integrates_to_its_attenuation(name, hu):
    known = MAPS[name]
    rise = known.water / 1000.0 if hu <= 0 else (known.dense - known.water) / known.dense_hu
    image = line_integrals(torch.full(SIZE, hu), SPACING, make_pose(EXTENT), (33, 33), attenuation=name)
    assert float(image[16, 16]) == pytest.approx((known.water + rise * hu) * EXTENT[1], rel=3e-3, abs=1e-6)


def test_the_maps_are_those_of_their_sources():
    """NISTIR 5632 at 60 and 80 keV, logarithms interpolated to 70 keV; HU of cortical bone by the definition of HU."""

    def at_70(low: float, high: float, density: float) -> float:
        return density * np.exp(np.interp(np.log(70.0), np.log([60.0, 80.0]), np.log([low, high]))) / 10.0

    water, bone = at_70(0.2059, 0.1837, 1.0), at_70(0.3148, 0.2229, 1.92)
    linear, two = MAPS["linear"], MAPS["two_material"]
    assert linear.water == pytest.approx(water, rel=1e-3)
    assert (linear.dense - linear.water) / linear.dense_hu == pytest.approx(linear.water / 1000.0)
    assert two.water == pytest.approx(0.02059) and two.dense == pytest.approx(0.3148 * 0.192, rel=1e-3)
    assert two.dense_hu == pytest.approx(1000.0 * (bone / water - 1.0), rel=2e-3)
    with pytest.raises(UserError, match="dataset.drr_attenuation=cubic: choose bilinear, linear, two_material"):
        attenuation_map("cubic")


def test_the_map_changes_the_xray_and_the_key_of_cases_but_the_default_key_stays():
    volume = Volume(np.where(np.indices(SIZE).sum(axis=0) % 9 < 4, 900.0, -300.0).astype(np.float32), SPACING)
    poses = DrrSettings().poses(EXTENT)
    images = [DrrSettings(attenuation=name).render(volume, poses, (32, 32)) for name in MAPS]
    assert (images[0] - images[1]).abs().max() > 0.005 < (images[1] - images[2]).abs().max()
    assert "attenuation" not in DrrSettings().describe()
    assert DrrSettings(attenuation="linear").describe()["attenuation"] == "linear"


@pytest.mark.parametrize("image", ["log", "linear"])
@pytest.mark.parametrize("attenuation", MAPS)
def test_the_truth_on_its_own_grid_has_no_error(image, attenuation):
    settings = DrrSettings(image=image, attenuation=attenuation)
    volume = Volume(render_phantom(5, size=(48, 40, 52)).hu, (6.5, 6.4, 6.8))
    poses = settings.poses(volume.extent)
    xray = settings.render(volume, poses, (64, 64))[0].half().float()  # as cases are stored
    model = ForwardModel.of_protocol({"forward_model": settings.forward_model()})
    own = scale_xray(forward_image(torch.from_numpy(volume.hu), volume.spacing, poses[0], (64, 64), model))
    assert float((own - xray).abs().mean()) < 0.001
    other = ForwardModel(image, "linear" if attenuation != "linear" else "bilinear")
    wrong = scale_xray(forward_image(torch.from_numpy(volume.hu), volume.spacing, poses[0], (64, 64), other))
    assert float((wrong - xray).abs().mean()) > 3 * float((own - xray).abs().mean())
    coarse = downsample(volume, 13.0)  # the model's grid: what is left is the floor
    floor = scale_xray(forward_image(torch.from_numpy(coarse.hu), coarse.spacing, poses[0], (64, 64), model))
    assert 0.001 < float((floor - xray).abs().mean()) < 0.05


def test_xrays_without_iodine_are_those_of_the_volume_without_it():
    settings = DrrSettings(remove_iodine=True)
    volume = Volume(render_phantom(5, size=(48, 40, 52)).hu, (6.5, 6.4, 6.8))
    poses = settings.poses(volume.extent)
    xray = settings.render(volume, poses, (64, 64))[0]
    model = ForwardModel.of_protocol({"forward_model": settings.forward_model()})
    assert model.iodine == REMOVED and model.why_not_applicable is None
    own = scale_xray(forward_image(torch.from_numpy(volume.hu), volume.spacing, poses[0], (64, 64), model))
    assert float((own - xray).abs().mean()) < 0.001


def test_the_xray_of_a_phantom_is_that_of_its_plain_drawing_alone():
    """Its forward model applies to the drawing without contrast; the volume with contrast is refused."""
    source = PhantomSource(Population(1, 1, 1), Geometry((32, 32, 32)), Xrays((64, 64)))
    row = {"id": "phantom_00000003"}
    case, described = source.build(row), source.forward_model()
    model = ForwardModel.of_protocol({"forward_model": described})
    assert model.iodine == NOT_DRAWN and "contrast medium" in model.why_not_applicable
    drawing = draw_for_xrays(3, 0, (32, 32, 32), source.population.extent)
    assert drawing.hu.shape == (64, 64, 64) and "2 times as fine" in model.grid
    plain = torch.from_numpy(drawing.hu)
    coarse = torch.nn.functional.avg_pool3d(plain[None], 2)[0]  # the patient without contrast on the grid of the case
    spacing = case["spacing"].tolist()
    found = [
        float((scale_xray(forward_image(hu, at, case["pose"][0], (64, 64), model)) - case["xray"][0]).abs().mean())
        for hu, at in ((plain, drawing.spacing), (coarse, spacing), (case["ct"].float(), spacing))
    ]
    assert found[0] < 0.001 < 0.002 < found[1] < 0.02 < found[2]
    assert json.loads(json.dumps(described)) == described and described["attenuation_map"]["energy"] == 70.0
    noisy = PhantomSource(Population(1, 1, 1), Geometry((32, 32, 32)), Xrays((64, 64)), pose_noise=True)
    assert noisy.forward_model()["pose"].startswith("unknown")


def test_protocols_of_earlier_versions_determine_their_model():
    of = ForwardModel.of_protocol
    assert of({"dataset": "phantom", "xrays": "rendered"}).iodine == NOT_DRAWN
    assert of({"dataset": "x", "drr": {"image": "linear", "remove_iodine": True}}) == ForwardModel(
        "linear", iodine=REMOVED
    )
    assert of({"dataset": "x"}) is None and of({"forward_model": None, "input": "volume"}) is None


def test_no_model_is_taken_for_xrays_that_are_files_and_their_drrs_keep_theirs():
    """Protocols of earlier versions state the model of DRRs also where X-rays are films."""
    settings = DrrSettings(image="linear", attenuation="linear", remove_iodine=True, photons=5.0)
    made, drr = settings.forward_model(), settings.describe()
    earlier = {"drr": drr, "forward_model": made, "xray_sources": {"drr": 1, "film": 2}}
    oldest = {"drr": drr, "xray_sources": {"film": 2}}
    now = {"drr": drr, "forward_model": None, "xray_sources": {"drr": 3}}
    for protocol in (earlier, oldest, now):
        assert ForwardModel.of_protocol(protocol) is None
        model = ForwardModel.of_drrs(protocol)
        look = model.image, model.attenuation, model.iodine, model.photons
        assert look == ("linear", "linear", REMOVED, 5.0)
    assert ForwardModel.of_protocol({**earlier, "xray_sources": {"drr": 3}}) == ForwardModel.of_drrs(earlier)
