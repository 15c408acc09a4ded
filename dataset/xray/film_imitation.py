"""Random changes that turn the line integrals of a chest into a picture like a real film.

Unlike `dataset.xray.augmentation`, which keeps the pose of an X-ray exact, these changes also move, crop and cover the
image; they map the masks that belong to it in the same way. They start from line integrals, where the physics is
additive: denser lungs, other bones and overlying soft tissue add to them before the film's grey-scale curve.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from dataset.imaging.drr import scale_xray
from dataset.imaging.forward_model import MU_WATER

WORDS = ("L", "R", "AP", "PA", "SUPINE", "PORTABLE", "ERECT", "SEMI", "12:40", "CHEST", "90kV", "Bett")


@dataclass(frozen=True)
class FilmImitation:
    """Strengths of the changes; each is drawn anew for each image."""

    degrees: float = 8.0  # largest rotation in the image plane
    zoom: float = 0.15  # largest relative change of size
    shift: float = 0.1  # largest shift, share of the side
    gamma: float = 0.45  # largest absolute logarithm of the exponent of the grey-scale curve
    noise: float = 0.04  # largest standard deviation of the noise
    blur: float = 1.2  # pixels, largest standard deviation

    def __call__(
        self,
        attenuation: Float[Tensor, "h w"],
        bone: Float[Tensor, "h w"],
        depth: Float[Tensor, "c h w"],
        rng: np.random.Generator,
    ) -> tuple[Float[Tensor, "h w"], Float[Tensor, "c h w"]]:
        """The film in [0, 1] and `depth` as it lies in the film, 0 where nothing is shown.

        Args:
            attenuation, bone: line integrals, dimensionless; `bone` is the part that bone adds.
            depth: mm of lung along each ray, by lung.
        """
        image = _anatomy(attenuation.numpy(), bone.numpy(), depth.sum(dim=0).numpy(), rng)
        stack = torch.cat([torch.from_numpy(image)[None], depth, torch.ones_like(depth[:1])])
        stack = self._moved(stack, rng)
        image, depth, shown = stack[0].numpy(), stack[1:-1], stack[-1].numpy() > 0.5
        image = self._exposed(image, shown, rng)
        image, seen = _covered(image, shown, rng)
        if rng.random() < 0.5:
            image = image + _objects(image.shape, rng)
        image = np.clip(image, 0.0, 1.0)
        if rng.random() < 0.6:
            image = np.maximum(image, _writing(image.shape, rng))
        image = scale_xray(torch.from_numpy(image.astype(np.float32)))
        return image, depth * torch.from_numpy(seen)

    def _moved(self, stack: Tensor, rng: np.random.Generator) -> Tensor:
        """Rotated, resized and shifted; the last channel is 0 where the original ends."""
        angle = math.radians(rng.normal() * self.degrees / 2)
        across, down = np.exp(rng.uniform(-1, 1) * self.zoom + rng.uniform(-0.08, 0.08, 2))
        matrix = torch.tensor(
            [
                [math.cos(angle) / across, -math.sin(angle) / across, rng.uniform(-1, 1) * 2 * self.shift],
                [math.sin(angle) / down, math.cos(angle) / down, rng.uniform(-1, 1) * 2 * self.shift],
            ],
            dtype=torch.float32,
        )
        grid = F.affine_grid(matrix[None], (1, 1, *stack.shape[1:]), align_corners=False)
        moved = F.grid_sample(stack[None], grid, padding_mode="border", align_corners=False)[0]
        if rng.random() < 0.3:  # the film ends where the DRR ends; else its border continues
            moved[-1] = F.grid_sample(stack[None, -1:], grid, align_corners=False)[0, 0]
        return moved

    def _exposed(self, image: np.ndarray, shown: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Line integrals to grey values: curve, scatter, local contrast, gradient, blur and noise."""
        if rng.random() < 0.25:
            image = -np.exp(-image * rng.uniform(0.3, 1.0))
        low, high = np.quantile(image[shown], (0.005, 0.995))
        image = np.clip((image - low) / max(high - low, 1e-6), 0.0, 1.0)
        image = image ** math.exp(rng.uniform(-1, 1) * self.gamma)
        if rng.random() < 0.5:  # monotone curve through random knots
            knots = np.concatenate([[0.0], np.cumsum(rng.uniform(0.3, 1.0, 5))])
            image = np.interp(image, np.linspace(0.0, 1.0, 6), knots / knots[-1])
        if rng.random() < 0.6:  # local contrast, as in processed films
            size = image.shape[0] * rng.uniform(0.04, 0.2)
            blurred = ndimage.gaussian_filter(image, size)
            gain = rng.uniform(-0.3, 1.5)
            if rng.random() < 0.4:  # divided by the local spread, as CLAHE does
                spread = np.sqrt(ndimage.gaussian_filter((image - blurred) ** 2, size)) + 0.05
                image = image + rng.uniform(0.2, 0.8) * (0.5 + 0.15 * (image - blurred) / spread - image)
            else:
                image = image + gain * (image - blurred)
        if rng.random() < 0.4:
            image = image + rng.uniform(0.0, 0.25) * _plane(image.shape, rng)
        if rng.random() < 0.3:  # unequal exposure
            image = image * (1.0 + rng.uniform(0.0, 0.3) * _smooth(image.shape, rng, 0.3))
        if (sigma := rng.uniform(0.0, self.blur)) > 0.3:
            image = ndimage.gaussian_filter(image, sigma)
        grain = rng.standard_normal(image.shape)
        if rng.random() < 0.5:
            grain = 1.8 * ndimage.gaussian_filter(grain, 0.8)
        image = image + rng.uniform(0.0, self.noise) * grain
        low, high = np.quantile(image[shown], (0.002, 0.998))
        return np.clip((image - low) / max(high - low, 1e-6), 0.0, 1.0)


def _anatomy(image: np.ndarray, bone: np.ndarray, depth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Line integrals with other bones, denser lungs, and soft tissue that a CT with raised arms does not show."""
    image = image + rng.uniform(-0.7, 0.6) * bone
    shape = image.shape
    if rng.random() < 0.4:  # inspiration
        image = image + MU_WATER * rng.uniform(-0.05, 0.2) * depth
    if rng.random() < 0.4:  # opacities
        patches = np.clip(_smooth(shape, rng, rng.uniform(0.05, 0.15)) - rng.uniform(0.0, 1.0), 0.0, 1.0)
        image = image + MU_WATER * rng.uniform(0.1, 0.7) * depth * patches
    if rng.random() < 0.25:  # effusion: opacity rises toward the base
        level, side = rng.uniform(0.45, 0.8), rng.choice((-1, 0, 1))
        down, across = np.mgrid[: shape[0], : shape[1]] / np.array(shape)[:, None, None]
        base = np.clip((down - level) * rng.uniform(4, 12), 0.0, 1.0) * (side * (across - 0.5) >= 0)
        image = image + MU_WATER * rng.uniform(0.3, 0.9) * depth * base
    body = np.quantile(image, 0.9)
    if rng.random() < 0.5:  # shoulders and arms
        size = rng.uniform(0.1, 0.3)
        for x in (rng.uniform(-0.05, 0.15), rng.uniform(0.85, 1.05)):
            place = (rng.uniform(-0.05, 0.2), x)
            image = image + body * rng.uniform(0.1, 0.6) * _ellipse(shape, place, (size, size * 0.8), rng)
            if rng.random() < 0.5:
                along = (rng.uniform(0.3, 0.8), x + (0.05 if x > 0.5 else -0.05))
                image = image + body * rng.uniform(0.1, 0.5) * _ellipse(shape, along, (0.5, 0.09), rng)
    if rng.random() < 0.4:  # breasts
        down, apart, size = rng.uniform(0.5, 0.85), rng.uniform(0.18, 0.28), rng.uniform(0.1, 0.22)
        for side in (-1, 1):
            place = (down + rng.uniform(-0.03, 0.03), 0.5 + side * apart)
            image = image + body * rng.uniform(0.05, 0.35) * _ellipse(shape, place, (size, size), rng)
    if rng.random() < 0.4:  # stomach and bowel gas
        for _ in range(rng.integers(1, 4)):
            place = (rng.uniform(0.7, 1.0), rng.uniform(0.35, 0.9))
            size = rng.uniform(0.02, 0.09, 2)
            image = image - body * rng.uniform(0.05, 0.25) * _ellipse(shape, place, size, rng)
    return np.maximum(image, 0.0).astype(np.float32)


def _covered(image: np.ndarray, shown: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The image behind collimator blades, padding and a frame, and where it is seen."""
    height, width = image.shape
    seen = shown.copy()
    if rng.random() < 0.3:  # blades
        top, bottom, left, right = rng.uniform(0.0, 0.12, 4) * (rng.random(4) < 0.6)
        angle = math.radians(rng.normal() * 4.0)
        down, across = np.mgrid[:height, :width] / np.array([height, width])[:, None, None] - 0.5
        turned = down * math.cos(angle) + across * math.sin(angle), across * math.cos(angle) - down * math.sin(angle)
        seen &= (turned[0] > top - 0.5) & (turned[0] < 0.5 - bottom)
        seen &= (turned[1] > left - 0.5) & (turned[1] < 0.5 - right)
    level = 0.0 if rng.random() < 0.7 else rng.uniform(0.0, 1.0)
    image = np.where(seen, image, level)
    if rng.random() < 0.5:  # letterbox: the film is not square
        cut = int(rng.uniform(0.0, 0.16) * height)
        box = np.zeros_like(seen)
        if rng.random() < 0.6:
            box[cut : height - cut] = True
        else:
            box[:, cut : width - cut] = True
        image, seen = np.where(box, image, 0.0 if rng.random() < 0.8 else 1.0), seen & box
    if rng.random() < 0.15:  # a bright or dark frame of a scanned film
        edge = rng.integers(1, 4)
        frame = np.ones_like(seen)
        frame[edge:-edge, edge:-edge] = False
        image, seen = np.where(frame, rng.choice((0.0, 1.0)), image), seen & ~frame
    return image, seen


def _objects(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Image of leads, tubes, electrodes and a pacemaker, drawn at twice the size."""
    height, width = shape
    canvas = Image.new("L", (2 * width, 2 * height))
    draw, scale = ImageDraw.Draw(canvas), np.array([2 * width, 2 * height])
    t = np.linspace(0.0, 1.0, 40)[:, None]
    for _ in range(rng.integers(0, 6)):
        a, b, c = rng.uniform(-0.05, 1.05, (3, 2)) * scale
        curve = (1 - t) ** 2 * a + 2 * t * (1 - t) * b + t**2 * c  # quadratic Bezier
        draw.line([tuple(p) for p in curve], fill=int(rng.integers(80, 256)), width=int(rng.integers(1, 5)))
    for _ in range(rng.integers(0, 6)):
        x, y = rng.uniform(0.05, 0.95, 2) * scale
        radius = rng.uniform(0.006, 0.02) * width * 2
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=int(rng.integers(120, 256)))
    if rng.random() < 0.2:
        x, y = rng.uniform((0.1, 0.15), (0.85, 0.5)) * scale
        size = rng.uniform(0.05, 0.12) * width
        draw.rounded_rectangle((x, y, x + size, y + 1.2 * size), radius=size / 3, fill=int(rng.integers(180, 256)))
    small = np.asarray(canvas.resize((width, height), Image.Resampling.BOX), dtype=np.float32) / 255.0
    return small * rng.uniform(0.15, 1.0)


def _writing(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Image of side markers and text boxes, mostly beside the lungs."""
    height, width = shape
    canvas = Image.new("L", (width, height))
    draw = ImageDraw.Draw(canvas)
    for _ in range(rng.integers(1, 4)):
        word, size = str(rng.choice(WORDS)), max(6, int(rng.uniform(0.03, 0.09) * height))
        x = rng.uniform(0.0, 0.15) if rng.random() < 0.5 else rng.uniform(0.75, 0.95)
        y = rng.uniform(0.0, 0.95)
        font = ImageFont.load_default(size)
        box = draw.textbbox((x * width, y * height), word, font=font)
        if rng.random() < 0.2:
            draw.rectangle((box[0] - 2, box[1] - 2, box[2] + 2, box[3] + 2), outline=255)
        draw.text((x * width, y * height), word, fill=int(rng.integers(150, 256)), font=font)
    return np.asarray(canvas, dtype=np.float32) / 255.0


def _ellipse(shape, place, size, rng: np.random.Generator) -> np.ndarray:
    """Thickness in [0, 1] of a tilted ellipsoid; `place` and `size` (rows, columns) are shares of the sides."""
    down, across = np.mgrid[: shape[0], : shape[1]] / np.array(shape)[:, None, None]
    angle = rng.normal() * 0.3
    down, across = down - place[0], across - place[1]
    rows = (down * math.cos(angle) + across * math.sin(angle)) / size[0]
    columns = (across * math.cos(angle) - down * math.sin(angle)) / size[1]
    return np.sqrt(np.maximum(0.0, 1.0 - rows**2 - columns**2))


def _smooth(shape, rng: np.random.Generator, scale: float) -> np.ndarray:
    """Smooth noise of unit standard deviation; `scale` is a share of the height."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), scale * shape[0], mode="wrap")
    return (noise - noise.mean()) / (noise.std() + 1e-9)


def _plane(shape, rng: np.random.Generator) -> np.ndarray:
    down, across = np.mgrid[: shape[0], : shape[1]] / np.array(shape)[:, None, None] - 0.5
    angle = rng.uniform(0.0, 2 * math.pi)
    return math.cos(angle) * down + math.sin(angle) * across
