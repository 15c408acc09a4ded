"""Lung guides of generators: only where they suit."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from common.errors import UserError
from common.files import ROOT
from ddpm.checkpoint.load import load_pipeline
from ddpm.consistency.guide_file import fingerprint, load_guide, save_guide
from ddpm.consistency.lung_guide import LungGuide
from evaluation.generation.lung_guidance import SHIPPED_GUIDE, find_guide
from evaluation.generation.open_pipeline import SHIPPED
from evaluation.generation.xray_inputs import read_inputs


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
        assert (given.guide is not None) == guided == given.notes.get("lung_guide", False)


def test_a_model_that_moves_films_again_is_not_guided(tmp_path):
    encoder = nn.Linear(4, 4)
    path = tmp_path / "guide.safetensors"
    save_guide(LungGuide((2, 4, 4, 4)), path, fingerprint(encoder), {})
    moving = generator(encoder)
    moving.pose_regressor = nn.Linear(1, 1)
    assert find_guide(None, moving) is None and find_guide("auto", moving) is None
    with pytest.raises(UserError, match="pose regressor"):
        find_guide(str(path), moving)
