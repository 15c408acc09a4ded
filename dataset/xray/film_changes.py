"""Single changes of an X-ray that a real film has: what it does not show, rotation, grey curve, markers and leads."""

import functools
import math

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from dataset.imaging.unknown_pixels import resampled

LOCAL_GRID = 32  # pixels per side on which local means are computed


def shown(
    shape: tuple[int, int], margins: tuple[float, float, float, float], degrees: float = 0.0
) -> Bool[np.ndarray, "h w"]:
    """A rectangle without `margins` (top, bottom, left, right; shares of the sides), turned about its centre."""
    height, width = shape
    top, bottom, left, right = margins
    down = ((np.arange(height) + 0.5) / height - (1.0 + top - bottom) / 2.0)[:, None]
    across = ((np.arange(width) + 0.5) / width - (1.0 + left - right) / 2.0)[None]
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    aspect = width / height
    rows, columns = down * cosine + across * sine * aspect, across * cosine - down * sine / aspect
    return (np.abs(rows) <= (1.0 - top - bottom) / 2.0) & (np.abs(columns) <= (1.0 - left - right) / 2.0)


def roll_map(degrees: float, aspect: float) -> Float[np.ndarray, "3 3"]:
    """Rotation of an image about its centre, as of `mapped`; `aspect` is width over height."""
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    return np.array([[cosine, -sine / aspect, 0.0], [sine * aspect, cosine, 0.0], [0.0, 0.0, 1.0]])


def mapped(image: Float[Tensor, "h w"], homography: Float[np.ndarray, "3 3"]) -> Float[Tensor, "h w"]:
    """The X-ray through a homography of new to old `(column, row, 1)` in [-1, 1]; NaN outside the original."""
    height, width = image.shape
    down = ((np.arange(height, dtype=np.float32) + 0.5) * 2 / height - 1)[:, None]
    across = ((np.arange(width, dtype=np.float32) + 0.5) * 2 / width - 1)[None]
    column, row, scale = (a * across + b * down + c for a, b, c in homography.astype(np.float32))
    grid = torch.from_numpy(np.stack([column / scale, row / scale], axis=-1))[None]
    options = {"grid": grid, "mode": "bilinear", "align_corners": False}
    return resampled(image[None, None], lambda x: F.grid_sample(x, **options))[0, 0]


def local_mean(image: Float[np.ndarray, "h w"], share: float) -> Float[np.ndarray, "h w"]:
    """Mean around each pixel, by a Gaussian with a standard deviation of this share of the height."""
    coarse = torch.from_numpy(image)[None, None].float()
    small = F.adaptive_avg_pool2d(coarse, LOCAL_GRID)[0, 0].numpy()
    small = torch.from_numpy(ndimage.gaussian_filter(small, share * LOCAL_GRID))[None, None]
    return F.interpolate(small, image.shape, mode="bilinear", align_corners=False)[0, 0].numpy()


def grey_curve(image: Float[Tensor, "h w"], steps: Float[np.ndarray, " n"]) -> Float[Tensor, "h w"]:
    """An X-ray in [0, 1] through the monotone curve with these positive `steps` between equidistant knots."""
    knots = np.concatenate([[0.0], np.cumsum(steps) / np.sum(steps)])
    curved = np.interp(image.numpy(), np.linspace(0.0, 1.0, len(knots)), knots)
    return torch.from_numpy(curved.astype(np.float32))


def marker(shape: tuple[int, int], rng: np.random.Generator) -> Float[np.ndarray, "h w"]:
    """Image of a bright R on the patient's right or L on the left, in an upper or lower corner."""
    height, width = shape
    canvas = Image.new("L", (width, height))
    size = max(6, int(rng.uniform(0.04, 0.08) * height))
    left_side = rng.random() < 0.7  # of the patient: the right of the image
    x = rng.uniform(0.82, 0.92) if left_side else rng.uniform(0.03, 0.12)
    y = rng.uniform(0.02, 0.2) if rng.random() < 0.8 else rng.uniform(0.75, 0.9)
    letter = "L" if left_side else "R"
    ImageDraw.Draw(canvas).text((x * width, y * height), letter, fill=255, font=_font(size))
    return np.asarray(canvas, dtype=np.float32) / 255.0 * rng.uniform(0.8, 1.2)


def leads(shape: tuple[int, int], rng: np.random.Generator) -> Float[np.ndarray, "h w"]:
    """Image of one to three faint smooth curves (leads, tubes, catheters) and of up to three electrodes."""
    height, width = shape
    canvas = Image.new("L", (2 * width, 2 * height))
    draw = ImageDraw.Draw(canvas)
    t = np.linspace(0.0, 1.0, 40)[:, None]
    for _ in range(int(rng.integers(1, 4))):
        a, b, c = rng.uniform(0.05, 0.95, (3, 2)) * (2 * width, 2 * height)
        curve = (1 - t) ** 2 * a + 2 * t * (1 - t) * b + t**2 * c  # quadratic Bezier
        draw.line([tuple(p) for p in curve], fill=int(rng.integers(80, 256)), width=int(rng.integers(1, 4)))
    for _ in range(int(rng.integers(0, 4))):
        x, y = rng.uniform(0.05, 0.95, 2) * (2 * width, 2 * height)
        radius = rng.uniform(0.006, 0.018) * 2 * width
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=int(rng.integers(120, 256)))
    small = canvas.resize((width, height), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32) / 255.0 * rng.uniform(0.1, 0.4)


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
