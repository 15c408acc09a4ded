"""The U-Net of the lung network is that of MONAI: weights of the same seed, names and results are equal."""

import torch

from dataset.imaging.unet_2d import unet_2d


def test_it_is_the_unet_of_monai():
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
