"""The lung guide of a finished model: a file that suits its latent encoder, and refusals."""

import pytest
import torch
from ddpm_parts import module
from test_consistent_samples import planted

from common.errors import UserError
from dataset.imaging.hu_window import Window
from dataset.sources.phantom import PhantomSource, Population
from dataset.sources.settings import Geometry, Xrays
from ddpm.consistency.guide_file import fingerprint, load_guide
from train.lungs.fit_lung_guide import write_lung_guide


def phantoms(pipeline) -> list[dict]:
    """Three phantoms at 32³, as a data set gives them."""
    source = PhantomSource(Population(train=3, val=1, test=1), Geometry(volume_size=(32, 32, 32)), Xrays((64, 64)))
    cases = [source.build(row) for row in source.rows.head(3).to_dict("records")]
    return [
        {
            "ct": pipeline.window.normalise(case["ct"].float())[None],
            "xray": case["xray"].float()[:, None],
            "pose": case["pose"],
            "spacing": case["spacing"],
            "id": str(number),
        }
        for number, case in enumerate(cases)
    ]


def test_the_file_suits_the_encoder_that_it_was_fitted_to(tmp_path):
    pipeline = module().pipeline()
    path = write_lung_guide(pipeline, phantoms(pipeline), torch.device("cpu"), tmp_path / "guide.safetensors")
    guide, suits = load_guide(path)
    assert suits == fingerprint(pipeline.latent_encoder)
    assert guide.deviation.shape[0] > 0 and torch.isfinite(guide.deviation).all() and (guide.deviation > 0).any()


def test_it_is_fitted_to_predictions_of_the_network_alone(tmp_path):
    """Not to those that the consistency of the model has changed towards the X-ray already."""
    pipeline, found = module().pipeline(), []
    for part in (None, planted()):
        pipeline.register_modules(consistency=part)
        pipeline.set_sampler("DPMSolverMultistepScheduler", 3)
        path = write_lung_guide(pipeline, phantoms(pipeline), torch.device("cpu"), tmp_path / "guide.safetensors")
        found.append(load_guide(path)[0].state_dict())
    assert found[0].keys() == found[1].keys() and pipeline.consistent is None
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


@pytest.mark.frontal_check
def test_it_is_fitted_to_films_of_any_look(tmp_path):
    pipeline = module().pipeline()
    cases = [{**case, "pose": torch.full_like(case["pose"], torch.nan)} for case in phantoms(pipeline)]
    cases[0]["xray"] = torch.zeros_like(cases[0]["xray"])
    assert write_lung_guide(pipeline, cases, torch.device("cpu"), tmp_path / "guide.safetensors").is_file()


def test_a_window_without_air_is_refused(tmp_path, monkeypatch):
    pipeline = module().pipeline()
    monkeypatch.setattr(type(pipeline), "window", Window(-200.0, 500.0))
    with pytest.raises(UserError, match=r"parts=\[lung_guide\]: the window \[-200, 500\] HU does not show lungs"):
        write_lung_guide(pipeline, [], torch.device("cpu"), tmp_path / "guide.safetensors")


def test_another_file_is_refused_with_the_command_that_makes_one(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"holds no lung guide .*train/fit_parts.py parts=\[lung_guide\]"):
        load_guide(tmp_path / "other.safetensors")
