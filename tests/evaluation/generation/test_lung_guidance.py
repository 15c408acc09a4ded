"""Lung guides of generators: only where they suit."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from consistent_parts import planted, towards
from ddpm_parts import EXTENT, module
from torch import nn

from common.errors import UserError
from common.files import ROOT
from dataset.imaging.geometry import unknown_pose
from ddpm.checkpoint.load import load_pipeline
from ddpm.consistency.guide_file import fingerprint, load_guide, save_guide
from ddpm.consistency.lung_guide import LungGuide
from evaluation.generation.lung_guidance import SHIPPED_GUIDE, find_guide
from evaluation.generation.metadata import describe_input
from evaluation.generation.open_pipeline import SHIPPED
from evaluation.generation.xray_inputs import GeneratorInput, read_inputs


def generator(encoder: nn.Module, **parts) -> SimpleNamespace:
    return SimpleNamespace(
        latent_encoder=encoder, denoiser=SimpleNamespace(device=torch.device("cpu")), pose_regressor=None, **parts
    )


def test_the_included_guide_suits_the_included_weights():
    assert fingerprint(load_pipeline(SHIPPED).latent_encoder) == load_guide(SHIPPED_GUIDE)[1]
    assert SHIPPED_GUIDE.stat().st_size < 200_000


def test_a_guide_is_used_for_its_own_autoencoder_alone(tmp_path):
    own, other = nn.Linear(4, 4), nn.Linear(4, 4)
    path = tmp_path / "guide.safetensors"
    save_guide(LungGuide((2, 4, 4, 4)), path, fingerprint(own), {})
    assert isinstance(find_guide(str(path), generator(own)), LungGuide)
    with pytest.raises(UserError, match="lung_guide=.*another autoencoder"):
        find_guide(str(path), generator(other))
    with pytest.raises(UserError, match="lung_guide=.*another autoencoder"):
        find_guide(str(path), generator(own, members=[generator(own), generator(other)]))
    with pytest.raises(UserError, match="lung_guide=shipped.*another autoencoder"):
        find_guide("shipped", generator(other))
    assert find_guide(None, generator(own)) is None and find_guide("auto", generator(other)) is None


def test_films_of_the_included_weights_are_guided_unless_told_otherwise(tmp_path):
    pipeline, film = load_pipeline(SHIPPED), ROOT / "assets" / "films" / "hannover_3b46de94.png"
    for chosen, guided in (
        ({}, True),
        ({"lung_guide": None}, False),
        ({"lung_guide": "off"}, False),
        ({"align": "none"}, False),
    ):
        (given,) = read_inputs([film], pipeline, **chosen)
        assert (given.guide is not None) == guided == describe_input(given, pipeline).get("lung_guide", False)


def test_the_settings_say_whether_the_guide_changed_the_volume():
    """`sampler.consistency=on` updates a film towards itself instead, so its guide has no effect."""
    pipeline, film, xray = module().pipeline(), unknown_pose(1, ["PA"]), torch.rand(1, 1, 1, 64, 64)
    pipeline.register_modules(consistency=planted())
    given = GeneratorInput(xray[0, :, 0], film, EXTENT, guide=towards())
    for mode in ("on", None, "off"):
        pipeline.set_sampler("DPMSolverMultistepScheduler", 4, consistency=mode)
        guided, free = (
            pipeline(xray, film[None], ids=["a"], allow_any_picture=True, guides=guides).volumes
            for guides in ([towards()], None)
        )
        assert describe_input(given, pipeline)["lung_guide"] == (not torch.equal(guided, free)) == (mode != "on")
        assert "lung_guide" not in describe_input(replace(given, guide=None), pipeline)


def test_a_model_that_moves_films_again_is_not_guided(tmp_path):
    encoder = nn.Linear(4, 4)
    path = tmp_path / "guide.safetensors"
    save_guide(LungGuide((2, 4, 4, 4)), path, fingerprint(encoder), {})
    moving = generator(encoder)
    moving.pose_regressor = nn.Linear(1, 1)
    assert find_guide(None, moving) is None and find_guide("auto", moving) is None
    with pytest.raises(UserError, match="pose regressor"):
        find_guide(str(path), moving)
