"""X-ray features are computed before training unless augmentation changes the X-rays."""

from types import SimpleNamespace

import pytest
import torch

from ddpm.xray_encoder import CNNXrayEncoder
from train.generator.latent_data import cache_xray_features


class Items(list):
    cases = SimpleNamespace(augments=False)


@pytest.mark.parametrize("augments", [False, True])
def test_augmented_xrays_are_left_to_the_encoder(augments):
    data = SimpleNamespace(**{split: Items([{"xray": torch.rand(1, 1, 32, 32)}] * 2) for split in ("train", "val")})
    data.train.cases = SimpleNamespace(augments=augments)
    encoder = CNNXrayEncoder(width=8, blocks=1, feature_channels=8, embedding_dim=16)
    module = SimpleNamespace(trained={"xray_encoder": encoder})
    size = cache_xray_features(data, module, torch.device("cpu"))
    assert ("xray_maps" in data.train[0]) is not augments
    assert data.val[0]["xray_maps"].shape == (1, 8, 4, 4)
    assert size == (2 if augments else 4) * 2 * (16 + 8 * 4 * 4)
