"""Features of X-rays, computed once per case for a frozen encoder and X-rays without augmentation."""

from collections.abc import Callable

import torch
from rich.progress import track
from torch.utils.data import Dataset, default_collate

from common.autocast import inference_autocast
from ddpm.xray_encoder.base import XrayEncoder


class EncodedDataset(Dataset):
    """Items of a data set without augmentation, with `xray_embedding` `(v, e)` and `xray_maps` `(v, f, y, x)`.

    The features of the frozen encoder are in float16. `align` returns a batch with another `xray`, before encoding.
    """

    def __init__(
        self,
        items: Dataset,
        encoder: XrayEncoder,
        device: torch.device,
        description: str = "X-rays",
        align: Callable[[dict], dict] = dict,
    ):
        self.items = items
        xrays = (align(default_collate([items[i]]))["xray"] for i in track(range(len(items)), description))
        self.features = [_encode(encoder, xray, device) for xray in xrays]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: int | tuple[int, int]) -> dict:
        index = key[0] if isinstance(key, tuple) else key
        embedding, maps = self.features[index]
        return {**self.items[key], "xray_embedding": embedding, "xray_maps": maps}

    @property
    def bytes(self) -> int:
        """Memory of the features."""
        return sum(t.numel() * t.element_size() for pair in self.features for t in pair)


@torch.no_grad()
def _encode(encoder: XrayEncoder, xray: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    encoder.to(device).eval()
    with inference_autocast(device):
        encoded = encoder(xray.to(device))
    pair = tuple(part[0].to("cpu", torch.float16) for part in encoded)
    if not all(torch.isfinite(part).all() for part in pair):
        raise ValueError(
            "features of the X-ray encoder exceed the range of float16; set model.memory.cache_xray=false"
        )
    return pair
