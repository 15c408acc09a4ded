"""Shapes, folding, and saving of the VQ-GAN."""

import pytest
import torch

from vq_gan_3d.autoencoder import VQGAN3D, fold, unfold


def small(**changes) -> VQGAN3D:
    torch.manual_seed(0)
    return VQGAN3D(**{"n_codes": 32, "embedding_dim": 4, "n_hiddens": 8, "n_res_blocks": 1, **changes})


@pytest.mark.parametrize(("downsample", "patch"), [(2, 2), (4, 2), (4, 4), (8, 2)])
def test_latents_are_smaller_by_downsample_along_each_axis(downsample, patch):
    model = small(downsample=downsample, patch=patch).eval()
    volume = torch.randn(1, 1, 16, 24, 32)
    assert model.encode(volume).shape == (1, 4, 16 // downsample, 24 // downsample, 32 // downsample)
    assert model(volume).volume.shape == volume.shape


def test_unfold_undoes_fold_and_keeps_neighbours_together():
    volume = torch.randn(2, 1, 8, 4, 12)
    assert torch.equal(unfold(fold(volume, 4), 4), volume)
    assert torch.equal(fold(volume, 2)[0, :, 0, 0, 0], volume[0, 0, :2, :2, :2].flatten())


def test_gradient_reaches_every_weight():
    model = small()
    torch.nn.init.normal_(model.encoder[1].conv2.weight)  # blocks start as identities, which shuts their inside
    for block in model.modules():
        if hasattr(block, "conv2"):
            torch.nn.init.normal_(block.conv2.weight, std=0.1)
    out = model.train()(torch.randn(1, 1, 16, 16, 16))
    (out.volume.square().mean() + out.commitment).backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert without == []


def test_saved_model_is_the_same_model(tmp_path):
    model = small().eval()
    model.save_pretrained(tmp_path)
    again = VQGAN3D.from_pretrained(tmp_path).eval()
    volume = torch.randn(1, 1, 8, 8, 8)
    assert torch.equal(model(volume).volume, again(volume).volume)


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="multiples of model.downsample=4"):
        small().encode(torch.zeros(1, 1, 16, 18, 16))
    with pytest.raises(ValueError, match="power of two"):
        small(downsample=6)
    with pytest.raises(ValueError, match="patch=8"):
        small(patch=8)
