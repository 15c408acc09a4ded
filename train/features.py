"""Features of a frozen X-ray encoder in place of its work in every step."""

from functools import partial

import torch

from ddpm.module import DDPMModule
from ddpm.xray_encoder.cache import EncodedDataset
from train.guesses import laid
from train.latents import LatentData


def cache_xray_features(data: LatentData, module: DDPMModule, device: torch.device) -> int:
    """Encodes the X-rays of both splits once, laid as the module lays them.

    Training X-rays that are augmented are left to the encoder.

    Returns:
        Bytes of memory that the features take.
    """
    splits = ["val"] if data.train.cases.augments else ["train", "val"]
    total = 0
    for split in splits:
        lay = partial(laid, module, training=split == "train")
        encoder, title = module.trained["xray_encoder"], f"Encoding X-rays ({split})"
        encoded = EncodedDataset(getattr(data, split), encoder, device, title, lay)
        setattr(data, split, encoded)
        total += encoded.bytes
    return total
