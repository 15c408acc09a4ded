"""The lung network of X-rays: its file, its mask and its box."""

import numpy as np
import pytest
import torch

from common.errors import UserError
from dataset.imaging.lung_network import (
    LEVELS_MM,
    SHIPPED,
    SIZE,
    FoundLungs,
    LungNetwork,
    find_lungs,
    find_lungs_in_batch,
    load_network,
    save_network,
    unet_2d,
)


def test_a_network_survives_its_file(tmp_path):
    torch.manual_seed(0)
    network = LungNetwork((4, 8, 8)).eval()
    save_network(network, tmp_path / "n.safetensors", {"dataset": "test"})
    again, x = load_network(tmp_path / "n.safetensors"), torch.rand(2, 1, SIZE, SIZE)
    assert again(x).shape == (2, 2, len(LEVELS_MM), SIZE, SIZE)
    assert (again(x) - network(x)).abs().max() < 0.02  # half precision


def test_other_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        load_network(tmp_path / "none.safetensors")
    with pytest.raises(UserError, match="holds no lung network"):
        load_network(SHIPPED.parent.parent / "phantom_128.safetensors")


def test_the_shipped_network_is_small():
    assert SHIPPED.stat().st_size < 2_000_000


def found(*boxes: tuple[slice, slice]) -> FoundLungs:
    probability = np.full((2, len(LEVELS_MM), SIZE, SIZE), 0.1)
    for side, box in enumerate(boxes):
        probability[(min(side, 1), slice(None), *box)] = 0.9
    return FoundLungs(probability)


def test_box_and_mask_cover_the_two_largest_components():
    lungs = found((slice(20, 80), slice(20, 50)), (slice(30, 90), slice(70, 110)), (slice(110, 118), slice(5, 13)))
    assert lungs.box.tolist() == pytest.approx([20 / 128, 90 / 128, 20 / 128, 110 / 128], abs=0.01)
    assert lungs.sides.sum(axis=(1, 2)).tolist() == [60 * 30, 60 * 40]
    mask = lungs.mask((256, 256))
    assert float(mask.float().mean()) == pytest.approx((60 * 30 + 60 * 40) / 128**2, rel=0.05)
    assert found().box is None and not found().lungs.any()


def test_a_batch_gives_what_each_xray_gives():
    xrays = torch.rand(3, 150, 150, generator=torch.Generator().manual_seed(1))
    for alone, together in zip(map(find_lungs, xrays), find_lungs_in_batch(xrays), strict=True):
        assert np.allclose(alone.probability, together.probability, atol=1e-4)


def test_its_unet_has_the_weights_the_names_and_the_results_of_monai():
    from monai.networks.nets import UNet

    torch.manual_seed(0)
    theirs = UNet(2, 1, 6, channels=(4, 8, 12, 16), strides=(2, 2, 2), norm="batch")
    torch.manual_seed(0)
    ours = unet_2d(1, 6, (4, 8, 12, 16))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert all(
        torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True)
    )
    images = torch.rand(2, 1, 32, 32)
    assert torch.equal(ours(images), theirs(images))  # with the statistics of the batch
    assert torch.equal(ours.eval()(images), theirs.eval()(images))
