"""Row `codebook`: nearest codes and their moving averages, against a one-hot design and the common library."""

import torch
from torch import nn

from benchmarks.speed.workload import Row, Work


def _work(setting: dict, device: str, quantiser: nn.Module, flat: bool = False) -> Work:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(setting["batch"], setting["channels"], *setting["grid"], generator=generator).to(device)
    if flat:
        vectors = vectors.flatten(2).transpose(1, 2).contiguous()
    quantiser = quantiser.to(device).train()
    step = torch.no_grad()(lambda: quantiser(vectors))
    return Work(step, {"precision": "float32"}, roofline=step)


def ours(setting: dict, device: str) -> Work:
    """`vq_gan_3d.Codebook`."""
    from vq_gan_3d import Codebook

    return _work(setting, device, Codebook(setting["codes"], setting["channels"]))


def monai(setting: dict, device: str) -> Work:
    """MONAI's `VectorQuantizer` over its `EMAQuantizer`: one-hot rows of all codes."""
    from monai.networks.layers.vector_quantizer import EMAQuantizer, VectorQuantizer

    return _work(setting, device, VectorQuantizer(EMAQuantizer(3, setting["codes"], setting["channels"])))


def lucidrains(setting: dict, device: str) -> Work:
    """`vector_quantize_pytorch.VectorQuantize`, Euclidean, default options."""
    from vector_quantize_pytorch import VectorQuantize

    return _work(setting, device, VectorQuantize(setting["channels"], codebook_size=setting["codes"]), flat=True)


SIDES = {"ours": ours, "MONAI VectorQuantizer": monai, "vector-quantize-pytorch": lucidrains}
ROWS = [Row("codebook", "codebook forward with its moving averages", SIDES, fastest=True)]
