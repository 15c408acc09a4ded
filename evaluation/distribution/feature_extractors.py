"""Feature extractors with local weights: `features(volume in HU, spacing) -> {part: (s, f)}`.

They process one case at a time in float32, so that results depend on no batch size or number of workers.
"""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import UserError
from common.files import sha256
from dataset.imaging.geometry import PLANES
from dataset.imaging.hu_window import Window
from ddpm.weights.safe_load import read_weights

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Extractor:
    """A frozen network with the hash of its weights."""

    def __init__(self, name: str, network: nn.Module, weights: Path, device: str = "cpu"):
        self.name, self.device = name, device
        self.network = network.eval().requires_grad_(False).to(device)
        self.weights = {"file": weights.name, "sha256": sha256(weights)}

    def describe(self) -> dict:
        return {"name": self.name, **self.weights}


class TorchvisionSlices(Extractor):
    """A torchvision network on slices of the three planes: the FID of each.

    Args:
        weights: state dict of `network` from torchvision.
        network: a name of `torchvision.models`, used without its last layer.
        window: HU of black and white.
        slices: of each plane, evenly spaced over the middle four fifths.
        pixels: shorter side of a resized slice.
        sha256: expected hash of the file, or null.
    """

    def __init__(
        self,
        weights: str | None,
        network: str = "inception_v3",
        window=(-1000.0, 1000.0),
        slices: int = 16,
        pixels: int = 299,
        sha256: str | None = None,
        device: str = "cpu",
    ):
        from torchvision.models import get_model

        path = _weights(weights, sha256, "a state dict of torchvision")
        extra = {"aux_logits": True, "init_weights": False} if network.startswith("inception") else {}
        model = get_model(network, weights=None, **extra)
        _load(model, path)
        heads = [name for name, _ in model.named_children() if name in ("fc", "classifier", "head", "heads")]
        if not heads:
            raise UserError(f"extractor.network={network}: no last layer; choose a classification network")
        last = getattr(model, heads[-1])
        setattr(model, heads[-1], last[:-1] if isinstance(last, nn.Sequential) else nn.Identity())
        super().__init__(f"torchvision {network}", model, path, device)
        self.window, self.slices, self.pixels = Window.parse(window), int(slices), int(pixels)

    @torch.no_grad()
    def features(self, volume: Float[Tensor, "d h w"], spacing) -> dict[str, Float[Tensor, "s f"]]:
        """`{plane: (slices, f)}` of slices with square pixels."""
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        grey = (self.window.normalise(volume.float().cpu()) + 1.0) / 2.0
        found = {}
        for axis, plane in enumerate(PLANES):
            count = grey.shape[axis]
            chosen = torch.linspace(0.1 * (count - 1), 0.9 * (count - 1), self.slices).round().long()
            images = grey.movedim(axis, 0)[chosen][:, None]
            extent = [n * float(s) for i, (n, s) in enumerate(zip(grey.shape, spacing, strict=True)) if i != axis]
            size = [round(self.pixels * e / min(extent)) for e in extent]
            images = F.interpolate(images, size=size, mode="bilinear", antialias=True, align_corners=False)
            images = (images.expand(-1, 3, -1, -1) - mean) / std
            found[plane] = self.network(images.to(self.device)).flatten(1).float().cpu()
        return found


class MonaiVolumes(Extractor):
    """A 3D ResNet of MONAI, for example with the weights of MedicalNet.

    Args:
        weights: state dict of the network, also under the key `state_dict` or with the prefix `module.`.
        network: `resnet10`, `resnet18`, `resnet34`, `resnet50`, …
        shortcut: `A` or `B`, as in the training of the weights (MedicalNet: A for 18 and 34, B for 10 and 50).
        window: HU of -1 and 1.
        size: voxels `[D, H, W]` of a resized volume.
        sha256: expected hash of the file, or null.
    """

    def __init__(
        self,
        weights: str | None,
        network: str = "resnet50",
        shortcut: str = "B",
        window=(-1000.0, 1000.0),
        size=(96, 96, 96),
        sha256: str | None = None,
        device: str = "cpu",
    ):
        from monai.networks import nets

        path = _weights(weights, sha256, "a state dict of a MONAI ResNet")
        known = [name for name in dir(nets) if name.startswith("resnet") and name[6:].isdigit()]
        if network not in known:
            raise UserError(f"extractor.network={network}: choose {', '.join(known)}")
        bias = shortcut == "A"
        model = getattr(nets, network)(
            spatial_dims=3, n_input_channels=1, feed_forward=False, shortcut_type=shortcut, bias_downsample=bias
        )
        _load(model, path)
        super().__init__(f"monai {network}", model, path, device)
        self.window, self.size = Window.parse(window), tuple(int(n) for n in size)

    @torch.no_grad()
    def features(self, volume: Float[Tensor, "d h w"], spacing) -> dict[str, Float[Tensor, "s f"]]:
        """`{"volume": (1, f)}`."""
        image = F.interpolate(self.window.normalise(volume.float())[None, None], size=self.size, mode="trilinear")
        return {"volume": self.network(image.to(self.device)).flatten(1).float().cpu()}


def _weights(path: str | None, expected: str | None, what: str) -> Path:
    if not path or not Path(path).is_file():
        raise UserError(f"extractor.weights={path or 'null'}: no such file; give {what}")
    if expected is not None and sha256(path) != expected:
        raise UserError(f"{path}: sha256 {sha256(path)} where {expected} was expected; download the file again")
    return Path(path)


def _load(model: nn.Module, path: Path) -> None:
    try:
        state = read_weights(path)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    state = {name.removeprefix("module."): value for name, value in state.get("state_dict", state).items()}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        lines = " ".join(line.strip() for line in str(error).splitlines()[1:3])
        raise UserError(f"{path}: weights of another network than {type(model).__name__} ({lines[:200]})") from error
