"""A fine-tuned model and the one it started from give their mean; other files are refused."""

import pytest
import torch
from ddpm_parts import module

from common.errors import UserError
from common.files import sha256
from ddpm.checkpoint.average import average_with
from ddpm.checkpoint.write import export_pipeline
from ddpm.registry import TRAINED


@pytest.fixture
def pair(tmp_path):
    """The file of a start, and a pipeline with other weights that was trained from it."""
    started, tuned = module().pipeline(), module().pipeline()
    path = export_pipeline(started, tmp_path / "start.safetensors", torch.float32)
    for name in TRAINED:
        for value in tuned.networks[name].parameters():
            value.data += torch.randn(value.shape)
    given = {"file": path.name, "sha256": sha256(path)}
    tuned.register_to_config(protocol={**tuned.protocol, "init_from": given})
    return path, started, tuned


def test_trained_weights_are_the_mean_and_all_others_stay(pair):
    path, started, tuned = pair
    before = {name: {k: v.clone() for k, v in part.state_dict().items()} for name, part in tuned.networks.items()}
    average_with(tuned, path)
    for name, part in tuned.networks.items():
        for key, value in part.state_dict().items():
            expected = before[name][key]
            if name in TRAINED and value.is_floating_point():
                expected = (expected + started.networks[name].state_dict()[key]) / 2.0
            assert torch.allclose(value, expected, atol=1e-6), f"{name}.{key}"
    assert tuned.protocol["averaged_with"] == {"file": path.name, "sha256": sha256(path)}


def test_weights_that_it_was_not_trained_from_are_refused(pair, tmp_path):
    _, started, tuned = pair
    other = export_pipeline(tuned, tmp_path / "other.safetensors", torch.float32)
    with pytest.raises(UserError, match=r"average_with=.*other.safetensors: .*trained from start.safetensors"):
        average_with(tuned, other)
    with pytest.raises(UserError, match="trained from no other weights"):
        average_with(started, other)


def test_networks_of_another_structure_are_refused(pair):
    path, _, tuned = pair
    tuned.denoiser.extra = torch.nn.Linear(2, 2)
    with pytest.raises(UserError, match="its denoiser has another structure"):
        average_with(tuned, path)
