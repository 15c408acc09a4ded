"""LPIPS of axial slices: distance of deep features with weights fitted to human ratings (arXiv:1801.03924)."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import UserError
from ddpm.weights.safe_load import read_weights
from evaluation.metrics.base import CaseView, Metric, NotMeasured

SMALLEST_SIDE = 64  # pixels; smaller than AlexNet's strides allow


def lpips_slices(
    prediction: Float[Tensor, "d h w"], truth: Float[Tensor, "d h w"], network: nn.Module
) -> Float[Tensor, ""]:
    """Mean LPIPS of all axial slices of volumes in [-1, 1]; slices under 64 pixels are enlarged."""
    scale = max(1.0, SMALLEST_SIDE / min(truth.shape[-2:]))
    values = []
    with torch.no_grad():
        for start in range(0, len(truth), 16):  # fixed, so that the result does not depend on a batch size
            pair = [v[start : start + 16, None].expand(-1, 3, -1, -1) for v in (prediction, truth)]
            if scale > 1.0:
                size = [round(scale * n) for n in truth.shape[-2:]]
                pair = [F.interpolate(v, size=size, mode="bilinear", align_corners=False) for v in pair]
            values.append(network(*pair).flatten())
    return torch.cat(values).mean()


def load_lpips(weights: str | Path) -> nn.Module:
    """LPIPS with torchvision's AlexNet from a local file and the layer weights of torchmetrics.

    Raises UserError if the file does not exist or belongs to another network.
    """
    from torchmetrics.functional.image.lpips import _LPIPS

    network = _LPIPS(pretrained=True, net="alex", pnet_rand=True)
    layers = {name.split(".", 1)[1]: parameter for name, parameter in network.net.named_parameters()}
    try:
        state = read_weights(weights)
        for name, parameter in layers.items():
            parameter.data.copy_(state[f"features.{name}"])
    except (KeyError, RuntimeError, ValueError) as error:
        raise UserError(
            f"lpips={weights}: not the AlexNet of torchvision ({error}); give its file, or null"
        ) from error
    return network.eval().requires_grad_(False)


def _lpips(view: CaseView) -> Float[Tensor, " m"]:
    network = view.tools.get("lpips")
    if network is None:
        raise NotMeasured("no weights; evaluation/evaluate.py takes them as lpips=<AlexNet weights of torchvision>")
    network = network.to(view.truth.device)
    slices = slice(None) if view.scanned is None else view.scanned.flatten(1).any(dim=1)
    truth, *predictions = (view.window.normalise(volume[slices]) for volume in (view.truth, *view.predictions))
    return torch.stack([lpips_slices(volume, truth, network) for volume in predictions])


METRICS = (
    Metric(
        "lpips",
        "LPIPS",
        _lpips,
        "mean over axial slices, AlexNet, learned weights 0.1, window as [-1, 1], slices under 64 pixels enlarged",
        best="low",
    ),
)
