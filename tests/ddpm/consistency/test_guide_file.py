"""Files of lung guides: they come back as they were, and name the latent encoder that they suit."""

import pytest
import torch
from guide_world import planted
from torch import nn

from common.errors import UserError
from common.files import ROOT
from ddpm.consistency.guide_file import fingerprint, load_guide, save_guide


def test_a_guide_survives_its_file(tmp_path):
    guide = planted()
    save_guide(guide, tmp_path / "guide.safetensors", "0123abcd", {"cases": 3})
    again, suits = load_guide(tmp_path / "guide.safetensors")
    assert suits == "0123abcd" and again.latent_shape == guide.latent_shape
    for name, value in guide.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        load_guide(tmp_path / "none.safetensors")
    with pytest.raises(UserError, match="holds no lung guide"):
        load_guide(ROOT / "assets" / "networks" / "lungs_xray.safetensors")


def test_the_fingerprint_is_that_of_the_weights_in_bfloat16():
    torch.manual_seed(0)
    encoder, other = nn.Linear(8, 8), nn.Linear(8, 8)
    exported = nn.Linear(8, 8)
    exported.load_state_dict({name: value.bfloat16() for name, value in encoder.state_dict().items()})
    assert fingerprint(encoder) == fingerprint(exported) != fingerprint(other)
