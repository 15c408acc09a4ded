"""Resampling of X-rays with unknown pixels: the mean of what is known, and nothing else for a known X-ray."""

import math

import pytest
import torch
from torch.nn import functional as F

from dataset.imaging.drr import scale_xray
from dataset.imaging.lung_network import find_lungs
from dataset.imaging.unknown_pixels import pooled, resampled, split_unknown
from dataset.io.xray import resize_xray
from dataset.xray.lung_alignment import LungMap

NAN = math.nan


def xray(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def test_a_known_xray_is_resampled_as_without_a_mask():
    image = xray(2, 1, 1, 48, 64)
    flat = image.flatten(0, 1)
    assert torch.equal(pooled(image, 8).flatten(0, 1), F.adaptive_avg_pool2d(flat, 8))
    assert torch.equal(pooled(image, 7).flatten(0, 1), F.adaptive_avg_pool2d(flat, 7))
    options = {"size": (20, 20), "mode": "bilinear", "antialias": True}
    assert torch.equal(resampled(flat, lambda x: F.interpolate(x, **options)), F.interpolate(flat, **options))
    filled, known = split_unknown(image)
    assert torch.equal(filled, image) and known.all()


def test_a_resampled_pixel_is_the_mean_of_its_known_pixels():
    image = torch.tensor([[1.0, 3.0, NAN, NAN], [2.0, NAN, NAN, 8.0]])[None]
    assert pooled(image.repeat_interleave(2, 1), 2)[0, :, 0].tolist() == [2.0, 2.0]
    assert pooled(image, 1).isnan().item() is False and pooled(image, 1).item() == pytest.approx(3.5)
    assert pooled(image[..., 2:], 1).isnan().item()  # less than half is known


def test_a_hidden_value_never_matters():
    image = xray(40, 40)
    hidden, other = image.clone(), image + 5.0
    hidden[:, 25:], other[:, :25] = NAN, image[:, :25]
    other[:, 25:] = NAN
    for function in (lambda x: pooled(x, 8), lambda x: resize_xray(x, (20, 20)), scale_xray):
        torch.testing.assert_close(function(hidden), function(other), equal_nan=True, rtol=0, atol=0)


def test_padding_of_an_xray_is_unknown():
    image = resize_xray(xray(40, 80), (32, 32))
    assert image[:7].isnan().all() and image[-7:].isnan().all() and not image[9:-9].isnan().any()


def test_what_lies_beyond_the_film_is_unknown_after_alignment():
    image = LungMap((0.2, 0.6, 0.3, 0.8), (0.5, 0.9, 0.1, 0.35)).apply(torch.ones(100, 100))
    known = ~image.isnan()  # of row r: 0.2 + (r - 0.5), of column c: 0.3 + 2 (c - 0.1) of the film
    assert known[32:, :44].all() and not known[:28].any() and not known[:, 47:].any()
    assert (image[known] - 1.0).abs().max() < 1e-5


def test_the_lungs_are_found_beside_unknown_pixels():
    image = xray(64, 64)
    image[:4] = NAN
    black, _ = split_unknown(image)
    assert (find_lungs(image).probability == find_lungs(black).probability).all()
