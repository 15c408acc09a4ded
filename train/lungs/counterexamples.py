"""Pictures that are no frontal chest X-ray, so that the lung network learns to find no lungs in them."""

import math

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from dataset.imaging.forward_model import MU_WATER
from dataset.imaging.geometry import view_pose
from train.lungs.projection import Deformation, project_volumes

KINDS = ("lateral", "abdomen", "head end", "axial slice", "coronal slice", "projection", "bones", "drawing", "texture")


def counterexample(
    channels: Float[Tensor, "6 d h w"],
    spacing: tuple[float, float, float],
    extent: tuple[float, float, float],
    rng: np.random.Generator,
    size: int,
) -> Float[Tensor, "6 s s"]:
    """A random picture as the channels of a DRR (`train.lungs.drrs.CHANNELS`), whose lungs are empty.

    Args:
        channels: of a chest, with these voxels in mm; `extent` is that of its lungs in mm.
    """
    kind = KINDS[rng.integers(len(KINDS))]
    if kind in ("lateral", "abdomen", "head end"):
        drawn = _other_view(kind, channels[:2], spacing, extent, rng, size)
    elif kind in ("axial slice", "coronal slice", "projection"):
        drawn = _plane(kind, channels[0], spacing, rng, size)
    else:
        drawn = {"bones": _bones, "drawing": _drawing, "texture": _texture}[kind](rng, size)
        drawn = torch.from_numpy(np.stack([4.0 * drawn, 0.0 * drawn]).astype(np.float32))
    return torch.cat([drawn, torch.zeros(len(channels) - len(drawn), *drawn.shape[1:])])


def _other_view(kind: str, channels: Tensor, spacing, extent, rng: np.random.Generator, size: int) -> Tensor:
    """A lateral, or a frontal view of what lies below or above the lungs."""
    lateral = kind == "lateral"
    pose = view_pose(tuple(1.1 * e for e in extent), "lateral" if lateral else "PA")
    field = rng.uniform(1.05, 1.8) * max(extent[0], extent[1 if lateral else 2]) * float(pose[0] / pose[1])
    pose[7] = field
    pose[8] = math.copysign(field, rng.uniform(-1, 1)) if lateral else field
    pose[2] += rng.uniform(-25, 25) if lateral else rng.uniform(-40, 40)
    pose[3] += rng.uniform(-8, 8)
    if not lateral:
        away = 0.5 * extent[0] + (0.5 - rng.uniform(0.0, 0.12)) * field * float(pose[1] / pose[0])
        pose[4] = away if kind == "head end" else -away
    drawn = project_volumes(channels, spacing, pose, (size, size), Deformation(rng))
    return drawn + 1e-3 * torch.rand(drawn.shape, generator=torch.Generator().manual_seed(int(rng.integers(2**31))))


def _plane(kind: str, mu: Tensor, spacing, rng: np.random.Generator, size: int) -> Tensor:
    """A slice of the CT, or a maximum or mean over its axial slices, in a random window."""
    hu = 1000.0 * (mu / MU_WATER - 1.0)
    if kind == "projection":
        first = rng.integers(0, max(1, len(hu) - 10))
        slab = hu[first : first + rng.integers(5, 80)]
        image, sides = (slab.amax(dim=0) if rng.random() < 0.5 else slab.mean(dim=0)), spacing[1:]
    elif kind == "axial slice":
        image, sides = hu[rng.integers(len(hu))], spacing[1:]
    else:
        image, sides = hu[:, rng.integers(hu.shape[1] // 5, hu.shape[1])].flip(0), (spacing[0], spacing[2])
    low, high = ((-1000, 400), (-160, 240), (-1000, 1000))[rng.integers(3)]
    image = ((image - low) / (high - low)).clamp(0.0, 1.0)
    shape = [max(8, round(n * s)) for n, s in zip(image.shape, sides, strict=True)]
    side = max(shape)
    image = F.interpolate(image[None, None], size=shape, mode="bilinear", align_corners=False)
    rows, columns = side - shape[0], side - shape[1]
    image = F.pad(image, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
    image = F.interpolate(image, size=(size, size), mode="area")[0]
    return torch.cat([4.0 * image, torch.zeros_like(image)])


def _bones(rng: np.random.Generator, size: int) -> np.ndarray:
    """Bright rods with soft tissue around them, as in a limb or a hand."""
    canvas = Image.new("L", (4 * size, 4 * size))
    draw = ImageDraw.Draw(canvas)
    for _ in range(rng.integers(1, 8)):
        ends = rng.uniform(0.0, 4.0 * size, (2, 2))
        draw.line([tuple(p) for p in ends], fill=255, width=int(rng.uniform(0.1, 0.5) * size))
    bone = np.asarray(canvas.resize((size, size), Image.Resampling.BOX), dtype=np.float32) / 255.0
    flesh = ndimage.gaussian_filter(bone, rng.uniform(0.03, 0.15) * size)
    return rng.uniform(0.2, 1.0) * bone + flesh / (flesh.max() + 1e-6)


def _drawing(rng: np.random.Generator, size: int) -> np.ndarray:
    """Lines of text, or filled shapes."""
    canvas = Image.new("L", (size, size), int(rng.integers(0, 256)))
    draw = ImageDraw.Draw(canvas)
    if rng.random() < 0.5:
        font = ImageFont.load_default(int(rng.integers(6, 14)))
        ink = int(rng.integers(0, 256))
        for y in range(2, size, int(rng.integers(9, 18))):
            word = "".join(rng.choice(list("abcdefghilmnoprstu  ,.")) for _ in range(40))
            draw.text((rng.integers(0, 20), y), word, fill=ink, font=font)
    for _ in range(rng.integers(2, 12)):
        (x, y), (w, h) = rng.uniform(0, size, 2), rng.uniform(0.05, 0.6, 2) * size
        shape = draw.rectangle if rng.random() < 0.5 else draw.ellipse
        shape((x - w / 2, y - h / 2, x + w / 2, y + h / 2), fill=int(rng.integers(0, 256)))
    return np.asarray(canvas, dtype=np.float32) / 255.0


def _texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """Noise of a random power spectrum, as natural pictures have, or a gradient or waves."""
    down, across = np.mgrid[:size, :size] / size
    if rng.random() < 0.3:
        a, b = rng.uniform(-12, 12, 2)
        return 0.5 + 0.5 * np.sin(a * down + b * across + rng.uniform(0, 6))
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size))) + 1.0 / size
    spectrum = np.fft.fft2(rng.standard_normal((size, size))) / frequency ** rng.uniform(0.0, 2.0)
    image = np.real(np.fft.ifft2(spectrum))
    image = (image - image.min()) / (np.ptp(image) + 1e-9)
    return image > np.median(image) if rng.random() < 0.15 else image
