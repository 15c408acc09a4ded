"""The lungs of a frontal X-ray: a small U-Net, trained on DRRs (`train/train_lung_network.py`)."""

import functools
import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from common.checked_tensors import open_checked, save_tensors
from common.errors import UserError
from common.files import ROOT, atomic_path
from dataset.imaging.unknown_pixels import split_unknown

SHIPPED = ROOT / "assets" / "networks" / "lungs_xray.safetensors"
SIZE = 128  # pixels of the input, each side
LEVELS_MM = (15.0, 35.0, 60.0)  # a pixel shows lung of this depth or more along its ray
WITH_RECESS = (False, False, True)  # whether lung below the dome of the diaphragm counts for a level
LUNG, VISIBLE = 0, 2  # levels: of the mask, as people draw it; and of the box (`dataset.imaging.lung_box.VISIBLE_MM`)
SIDES = ("right", "left")  # of the patient
SMALLEST = 0.03  # of the image: smallest mask of a box
TRIM = 0.002  # of the pixels of the mask outside each side of the box


class LungNetwork(nn.Module):
    """X-rays `(b, 1, 128, 128)` in [0, 1] to logits `(b, side, level, 128, 128)` of `SIDES` and `LEVELS_MM`.

    Args:
        channels: of the U-Net, from its first stage of 64 x 64 pixels to its last.
    """

    def __init__(self, channels: tuple[int, ...] = (16, 32, 64, 96, 128)):
        super().__init__()
        self.channels = tuple(channels)
        self.unet = unet_2d(1, len(SIDES) * len(LEVELS_MM), self.channels)

    def forward(self, xray: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b side level h w"]:
        return self.unet(xray * 2.0 - 1.0).unflatten(1, (len(SIDES), len(LEVELS_MM)))


@dataclass(frozen=True)
class FoundLungs:
    """What the network finds in an X-ray: `probability` of `SIDES` and `LEVELS_MM`, on 128 x 128 pixels.

    Lung is where the probability exceeds `threshold`.
    """

    probability: Float[np.ndarray, "side level h w"]
    threshold: float = 0.5

    @functools.cached_property
    def lungs(self) -> Bool[np.ndarray, "h w"]:
        """Mask of both lungs, as people draw it: with the part behind the heart, down to the dome of the diaphragm.

        The two largest components, in each row up to the inner border of the `VISIBLE` lung and one pixel more, since
        thinner lung in front of the spine is not drawn.
        """
        right = self.probability[0, LUNG] >= self.probability[1, LUNG]
        sides = self._mask(LUNG) & np.stack([right, ~right])
        deep = sides & (self.probability[:, VISIBLE] > self.threshold)
        outward = [
            np.logical_or.accumulate(deep[0, :, ::-1], axis=1)[:, ::-1],
            np.logical_or.accumulate(deep[1], axis=1),
        ]
        within = ndimage.binary_dilation(np.stack(outward), np.ones((1, 1, 3)))
        return (sides & (within | ~deep.any(axis=2, keepdims=True))).any(axis=0)

    @functools.cached_property
    def sides(self) -> Bool[np.ndarray, "side h w"]:
        """The mask of each lung, in the order of `SIDES`."""
        right = self.probability[0, LUNG] >= self.probability[1, LUNG]
        return np.stack([self.lungs & right, self.lungs & ~right])

    @functools.cached_property
    def box(self) -> Float[Tensor, "4"] | None:
        """Box of both lungs: `(top, bottom, left, right)`, shares of the sides; None if no lungs are found.

        Its lower edge is at the domes of the diaphragm, as that of `dataset.imaging.lung_box.lung_box_in_volume`.
        """
        mask, edges = self._mask(VISIBLE), []
        if mask.sum() < SMALLEST * SIZE**2:
            return None
        for axis in (1, 0):
            share = np.cumsum(mask.sum(axis=axis) / mask.sum())
            edges += [np.searchsorted(share, TRIM) / SIZE, (np.searchsorted(share, 1.0 - TRIM) + 1) / SIZE]
        return torch.tensor(edges, dtype=torch.float32).clamp(max=1.0)

    def mask(self, size: tuple[int, int]) -> Bool[Tensor, "rows columns"]:
        """Mask of both lungs, as people draw it, in an X-ray of `size` pixels."""
        near = ndimage.binary_dilation(self.lungs)
        kept = torch.from_numpy(np.where(near, self.probability[:, LUNG].max(axis=0), 0.0))
        fine = F.interpolate(kept[None, None].float(), size=tuple(size), mode="bilinear", align_corners=False)
        return fine[0, 0] > self.threshold

    def _mask(self, level: int) -> Bool[np.ndarray, "h w"]:
        labels, count = ndimage.label(self.probability[:, level].max(axis=0) > self.threshold)
        sizes = np.bincount(labels.ravel(), minlength=count + 1)
        sizes[0] = 0
        return np.isin(labels, [label for label in np.argsort(sizes)[-2:] if sizes[label]])


def lung_box_in_image(image: Float[Tensor, "h w"]) -> Float[Tensor, "4"] | None:
    """`FoundLungs.box` of a frontal X-ray in [0, 1], bright bone."""
    return find_lungs(image).box


def find_lungs(xray: Float[Tensor, "h w"]) -> FoundLungs:
    """The lungs in a frontal X-ray in [0, 1], bright bone, of any size, by the shipped network."""
    return find_lungs_in_batch(xray[None])[0]


@torch.no_grad()
def find_lungs_in_batch(xrays: Float[Tensor, "b h w"]) -> list[FoundLungs]:
    """`find_lungs` of several X-rays; unknown pixels count as 0."""
    network = shipped_network()
    small = F.interpolate(
        split_unknown(xrays[:, None].float().cpu())[0], size=(SIZE, SIZE), mode="bilinear", antialias=True
    )
    return [FoundLungs(found) for found in network(small.clamp(0.0, 1.0)).sigmoid().numpy()]


@functools.cache
def shipped_network() -> LungNetwork:
    """The network of `assets/networks/lungs_xray.safetensors`, on the CPU, for inference."""
    return load_network(SHIPPED)


def load_network(path: str | Path) -> LungNetwork:
    """A network from its file; UserError if the file is missing, damaged or of another kind."""
    with open_checked(path) as file:
        try:
            settings = json.loads(file.file.metadata()["lung_network"])
            network = LungNetwork(tuple(settings["channels"]))
            network.load_state_dict({name: file.get_tensor(name).float() for name in file.keys()})  # noqa: SIM118
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{path}: holds no lung network of this version; train one with "
                            f"train/train_lung_network.py ({str(error)[:100]})") from error  # fmt: skip
    return network.eval()


def save_network(network: LungNetwork, path: str | Path, notes: dict) -> None:
    """Writes the network in half precision as safetensors; `notes` on its training are plain JSON."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()}
    header = {"channels": list(network.channels), "levels_mm": list(LEVELS_MM), **notes}
    with atomic_path(path) as temporary:
        save_tensors({k: v.cpu().contiguous() for k, v in state.items()}, temporary,
                     {"lung_network": json.dumps(header)})  # fmt: skip


def unet_2d(inputs: int, outputs: int, channels: Sequence[int]) -> nn.Module:
    """Images `(b, inputs, h, w)` to `(b, outputs, h, w)`; each of the `channels` but the last halves both sides.

    Batch norm and PReLU after each convolution but the last. Same layers as
    `monai.networks.nets.UNet(2, inputs, outputs, channels, strides=(2, …), norm="batch")`, whose names and weights it
    has: MONAI's top package imports all of MONAI and matplotlib, seconds before each generation from a film.
    """
    return nn.Sequential(OrderedDict(model=_level(inputs, outputs, tuple(channels), outermost=True)))


class _Skip(nn.Module):
    """Concatenates the input and the output of the next level."""

    def __init__(self, submodule: nn.Module):
        super().__init__()
        self.submodule = submodule

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        return torch.cat([x, self.submodule(x)], dim=1)


def _level(inputs: int, outputs: int, channels: tuple[int, ...], outermost: bool = False) -> nn.Sequential:
    width, last = channels[0], len(channels) == 2
    inner = _stage(nn.Conv2d(width, channels[1], 3, padding=1)) if last else _level(width, width, channels[1:])
    down = _stage(nn.Conv2d(inputs, width, 3, stride=2, padding=1))
    joined = width + (channels[1] if last else width)
    up = nn.ConvTranspose2d(joined, outputs, 3, stride=2, padding=1, output_padding=1)
    return nn.Sequential(down, _Skip(inner), nn.Sequential(OrderedDict(conv=up)) if outermost else _stage(up))


def _stage(conv: nn.Conv2d | nn.ConvTranspose2d) -> nn.Sequential:
    after = OrderedDict(N=nn.BatchNorm2d(conv.out_channels), A=nn.PReLU())
    return nn.Sequential(OrderedDict(conv=conv, adn=nn.Sequential(after)))
