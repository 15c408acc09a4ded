"""Features of a frozen X-ray encoder in place of its work in every step."""

import torch

from ddpm.xray_encoder.cache import EncodedDataset
from ddpm.xray_encoder.contract import XrayEncoder
from train.latents import LatentData


def cache_xray_features(data: LatentData, encoder: XrayEncoder, device: torch.device) -> int:
    """Encodes the X-rays of both splits once; training X-rays that are augmented are left to the encoder.

    Returns:
        Bytes of memory that the features take.
    """
    splits = ["val"] if data.train.cases.augments else ["train", "val"]
    total = 0
    for split in splits:
        encoded = EncodedDataset(getattr(data, split), encoder, device, f"Encoding X-rays ({split})")
        setattr(data, split, encoded)
        total += encoded.bytes
    return total
