"""The mask of the convolutional encoder: without effect on known X-rays, trained by unknown ones."""

import math

import pytest
import torch

from ddpm.xray_encoder import CNNXrayEncoder

SIZES = {"width": 8, "blocks": 1, "feature_channels": 8, "embedding_dim": 16}


def make(**options) -> CNNXrayEncoder:
    torch.manual_seed(0)
    return CNNXrayEncoder(**SIZES, **options).eval()


@pytest.fixture
def xray() -> torch.Tensor:
    return torch.rand(2, 1, 1, 64, 64, generator=torch.Generator().manual_seed(1))


def test_the_mask_draws_no_random_numbers():
    plain, masked = make(), make(mask=True)
    after = torch.rand(3)
    make()
    assert torch.equal(torch.rand(3), after)
    for name, weight in plain.state_dict().items():
        assert torch.equal(masked.state_dict()[name], weight)


@pytest.mark.parametrize("size", [None, 96])
def test_a_known_xray_gives_the_same_whatever_the_mask_has_learned(xray, size):
    plain, masked = make(image_size=size), make(image_size=size, mask=True)
    torch.nn.init.normal_(masked.mask_stem.weight)
    for a, b in zip(plain(xray), masked(xray), strict=True):
        assert torch.equal(a, b)


def test_without_a_mask_unknown_pixels_count_as_0(xray):
    holes, black = xray.clone(), xray.clone()
    holes[..., :20], black[..., :20] = math.nan, 0.0
    for a, b in zip(make()(holes), make()(black), strict=True):
        assert torch.equal(a, b)


def test_the_mask_learns_from_unknown_pixels(xray):
    masked = make(mask=True).train()
    holes = xray.clone()
    holes[..., :20] = math.nan
    for image, reached in ((xray, False), (holes, True)):
        masked.zero_grad()
        encoded = masked(image)
        (encoded.embedding.square().mean() + encoded.maps.square().mean()).backward()
        assert bool(masked.mask_stem.weight.grad.any()) is reached
    torch.nn.init.normal_(masked.mask_stem.weight)
    black = torch.where(holes.isnan(), 0.0, holes)
    assert not torch.allclose(masked(holes).maps, masked(black).maps)


def test_a_folder_keeps_the_mask(xray, tmp_path):
    masked = make(mask=True)
    torch.nn.init.normal_(masked.mask_stem.weight)
    masked.save_pretrained(tmp_path)
    xray[..., :20] = math.nan
    again = CNNXrayEncoder.from_pretrained(tmp_path)
    assert torch.equal(again(xray).maps, masked(xray).maps) and again.config.mask
