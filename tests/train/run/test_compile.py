"""torch.compile leaves weights and output unchanged; without a compiler training continues."""

import copy

import pytest
import torch

from train.run.compile import compile_in_place
from vq_gan_3d import VQGAN3D


@pytest.fixture
def network() -> VQGAN3D:
    torch.manual_seed(0)
    return VQGAN3D(n_codes=16, embedding_dim=4, n_hiddens=8, n_res_blocks=1).eval()


def test_weights_copies_and_output_stay(network):
    volume, names = torch.rand(1, 1, 8, 8, 8), list(network.state_dict())
    plain = network(volume).volume
    assert compile_in_place(network, "cpu", backend="eager")
    assert list(network.state_dict()) == names
    assert torch.allclose(network(volume).volume, plain, atol=1e-6)
    assert torch.allclose(copy.deepcopy(network)(volume).volume, plain, atol=1e-6)


def test_gradients_arrive_through_recomputed_blocks(network):
    network.enable_gradient_checkpointing()
    assert compile_in_place(network, "cpu", backend="eager")
    network(torch.rand(1, 1, 8, 8, 8)).volume.mean().backward()
    assert all(p.grad is not None for p in network.decoder.parameters())


def test_without_a_compiler_a_warning_follows(network, monkeypatch, caplog):
    def none(*arguments, **options):
        raise RuntimeError("Failed to find C compiler.\nSet CC.")

    monkeypatch.setattr(torch, "compile", none)
    assert not compile_in_place(network, "cpu")
    assert caplog.messages == [
        "model.compile=true: no compiler works on cpu (Failed to find C compiler.); training without"
    ]
    assert network(torch.rand(1, 1, 8, 8, 8)).volume.isfinite().all()


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_a_compiled_step_has_the_same_gradients(network, caplog):
    volume, plain = torch.rand(1, 1, 8, 8, 8), copy.deepcopy(network)
    if not compile_in_place(network, "cpu"):
        pytest.skip(caplog.messages[0])
    for net in (network, plain):
        net(volume).volume.square().mean().backward()
    for ours, theirs in zip(network.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad, rtol=1e-3, atol=1e-6)
