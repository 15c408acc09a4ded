"""The service with one X-ray or two, and the web API with a second file."""

import json

import nibabel as nib
import numpy as np
import pytest
from ddpm_parts import shared_pipeline
from demo_parts import last, save_film, served, small_service
from gradio_client import Client, handle_file
from PIL import Image
from radiograph_files import save_radiograph

from common.errors import UserError
from common.files import sha256
from demo.page import html
from demo.server.app_factory import NIIVUE, build_app
from demo.service.messages import GenerationRequest
from evaluation.generation.sample import Sampling
from evaluation.generation.write_volumes import generate

REQUEST = GenerationRequest(seed=3, steps=2)


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    made = small_service(tmp_path_factory.mktemp("demo") / "run", shared_pipeline())
    yield made
    made.close()


@pytest.fixture
def films(tmp_path):
    return save_film(tmp_path / "anna_pa.png", 1), save_film(tmp_path / "anna_lat.png", 2)


def volume(result) -> np.ndarray:
    return nib.load(result.files["volume.nii.gz"]).get_fdata()


def test_two_files_give_the_volume_of_the_command(service, films, tmp_path):
    both = last(service.generate(films[0], REQUEST, lateral=films[1]))
    alone = last(service.generate(films[0], REQUEST))
    assert service.about["lateral"] == "optional" and not np.array_equal(volume(both), volume(alone))
    settings = json.loads(both.files["settings.json"].read_text())
    assert settings["views"] == ["frontal", "lateral"] and "<the same lateral>" in settings["command"]
    assert settings["xray"]["sha256"] == f"{sha256(films[0])};{sha256(films[1])}" and "anna" not in str(settings)
    assert both.files["lateral.png"].is_file() and "lateral.png" not in alone.files
    assert not list(both.files["settings.json"].parent.glob("upload*"))
    pipeline = shared_pipeline().set_sampler("DPMSolverMultistepScheduler", 2)
    (written,) = generate(pipeline, [films], tmp_path / "out", Sampling(seed=3))
    np.testing.assert_array_equal(nib.load(written).get_fdata(), volume(both))


def test_the_preview_shows_the_lateral_and_says_whether_there_is_one(service, films):
    both, alone = service.look(films[0], lateral=films[1]), service.look(films[0])
    assert "with a lateral" in both.orientation and "without a lateral" in alone.orientation
    assert Image.open(both.lateral).size == (512, 512) and alone.lateral is None
    assert "the lateral as the model sees it" in html.xray_preview(both)


def test_a_lateral_is_refused_first_and_accepted_second(service, tmp_path):
    frontal, lateral = (save_radiograph(tmp_path / f"{view}.dcm", view=view) for view in ("PA", "LL"))
    assert last(service.generate(frontal, REQUEST, lateral=lateral)).token
    with pytest.raises(UserError, match="the X-ray: the file says that it is a lateral"):
        last(service.generate(lateral, REQUEST, lateral=frontal))
    with pytest.raises(UserError, match="the lateral: the view in the file is PA"):
        last(service.generate(frontal, REQUEST, lateral=frontal))


def test_a_second_file_that_the_model_cannot_take_is_refused(films, tmp_path):
    for number, (options, given, line) in enumerate((
        ({"views": 1, "view_drop": 0}, films[1], "the lateral: this model takes one view"),
        ({"view_drop": 0}, None, "the lateral: missing; this model takes a frontal and a lateral"),
    )):  # fmt: skip
        service = small_service(tmp_path / str(number), shared_pipeline(**options))
        try:
            for asked in (lambda s=service, g=given: s.look(films[0], lateral=g),
                          lambda s=service, g=given: last(s.generate(films[0], REQUEST, lateral=g))):  # fmt: skip
                with pytest.raises(UserError, match=line):
                    asked()
        finally:
            service.close()


@pytest.mark.slow
@pytest.mark.skipif(not NIIVUE.is_file(), reason="the viewer is not installed (make web)")
def test_a_client_sends_the_second_file(service, films):
    with served(build_app(service)) as address:
        client, (frontal, lateral) = Client(address, verbose=False), (handle_file(str(film)) for film in films)
        seen = client.predict(frontal, lateral=lateral, api_name="/look")
        assert "with a lateral" in seen["orientation"]
        urls = client.predict(frontal, lateral=lateral, steps=2, seed=3, api_name="/generate")["result"]["urls"]
        assert "lateral.png" in urls
