"""The peer of the chest benchmark: shapes, axes, gradients, one case learned by heart, a training that resumes."""

from types import SimpleNamespace

import pytest
import torch

from benchmarks.chests import peer_training
from benchmarks.chests.peer import (
    Generator,
    Lift,
    Peer,
    condition_volume,
    make_optimizers,
    projection_loss,
    train_step,
)
from dataset.imaging.hu_window import Window

SIZE = 16


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(0)
    volume = torch.nn.functional.interpolate(
        torch.rand(1, 1, 4, 4, 4, generator=generator) * 2 - 1, size=SIZE, mode="trilinear"
    )
    return volume.mean(dim=3).flip(2) * 0.5 + 0.5, volume


@pytest.mark.parametrize("size", [8, 16, 32])
def test_a_volume_is_a_cube_in_the_range_of_the_window(size):
    volume = Generator(size, width=4)(torch.rand(2, 1, 48, 48))
    assert volume.shape == (2, 1, size, size, size) and float(volume.detach().abs().max()) <= 1.0
    with pytest.raises(ValueError, match="power of two"):
        Generator(24)


def test_rows_of_the_xray_run_from_the_top_and_rays_along_h():
    xray = torch.zeros(1, 1, 8, 8)
    xray[0, 0, 1, 2] = 1.0  # near the top: high D; column 2: W = 2
    assert (condition_volume(xray)[0, 0] > 0).nonzero().tolist() == [[6, h, 2] for h in range(8)]
    lift = Lift(1, 3, 8)
    torch.nn.init.constant_(lift.spread.bias, 0.0)
    lifted = lift(xray)[0].abs().sum(dim=0)
    assert {(d, w) for d, _, w in (lifted > 0).nonzero().tolist()} == {(6, 2)}


def test_projections_along_all_axes_count():
    volume = torch.zeros(1, 1, 4, 4, 4)
    assert float(projection_loss(volume, volume)) == 0.0
    assert float(projection_loss(volume + 0.5, volume)) == pytest.approx(0.5)
    wave = torch.tensor([1.0, -1.0, 1.0, -1.0])
    assert float(projection_loss(wave.view(1, 1, 1, 4, 1).expand_as(volume), volume)) == pytest.approx(2 / 3)


def test_every_parameter_gets_a_gradient_and_the_networks_do_not_train_each_other(case):
    peer = Peer(SIZE, width=4)
    losses, generated = peer.generator_losses(*case)
    sum(losses.values()).backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in peer.generator.parameters())
    peer.zero_grad()
    peer.discriminator_loss(*case, generated).backward()
    assert all(p.grad is None for p in peer.generator.parameters())
    assert any(bool(p.grad.abs().sum() > 0) for p in peer.discriminator.parameters())


def test_voxels_that_are_not_known_do_not_count(case):
    xray, truth = case
    known = torch.ones_like(truth, dtype=torch.bool)
    known[:, :, :4] = False
    peer = Peer(SIZE, width=4)
    other = torch.where(known, truth, -truth)
    first, second = (peer.generator_losses(xray, volume, known)[0]["reconstruction"] for volume in (truth, other))
    assert torch.allclose(first, second)


@pytest.mark.slow
def test_one_case_is_learned_by_heart(case):
    torch.manual_seed(0)
    peer = Peer(SIZE, width=8)
    optimizers = make_optimizers(peer)
    for group in optimizers[0].param_groups:
        group["lr"] = 2.0e-3
    losses = [train_step(peer, optimizers, *case)["reconstruction"] for _ in range(60)]
    assert losses[-1] < 0.1 * losses[0]


class Cubes:
    """Training cases behind the interface of a `CaseDataset`."""

    def __len__(self) -> int:
        return 3

    def __getitems__(self, keys):
        return [torch.full((1, SIZE, SIZE, SIZE), index / 3.0) for index, _ in keys]

    def collate(self, items):
        volumes = torch.stack(items)
        return {"ct": volumes, "xray": volumes.mean(dim=3)[:, None] * 0.5 + 0.5}


def test_a_resumed_training_equals_one_without_a_stop(tmp_path, monkeypatch):
    monkeypatch.setattr(peer_training, "SAVE_EVERY", 2)
    data = SimpleNamespace(train=Cubes(), protocol=lambda: {"volume_size": [SIZE] * 3})
    whole = peer_training.train_peer(data, tmp_path / "whole.pt", 4, width=4)
    peer_training.train_peer(data, tmp_path / "parts.pt", 2, width=4)
    parts = peer_training.train_peer(data, tmp_path / "parts.pt", 4, width=4)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))
    volumes = peer_training.predict(parts, torch.rand(2, 1, 1, 32, 32), Window.parse("wide"))
    assert volumes.shape == (2, SIZE, SIZE, SIZE) and float(volumes.min()) >= -1000.0
    assert peer_training.milliseconds_a_step(8, width=4, steps=3) > 0
