"""What happens to an X-ray between patient and picture, done to training X-rays so that a model survives a film.

The geometry changes truly and cheaply: while the source stays where it is, turning the detector or changing its size
is an exact projective map of the picture, with no parallax (every ray stays the same ray), and the pose is changed
with it. What moves the source or the patient has parallax and needs a new projection: `reproject`.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from common.errors import UserError
from dataset.imaging.drr import scale_xray
from dataset.imaging.geometry import camera_axes, source_position

STREAM = 1  # tells these random numbers from those of the crop, which share (seed, step, index)
BORDER_SHARE = 0.5  # of the X-rays show collimator blades
LOCAL_SHARE = 1 / 12  # of the height: what local contrast is local to


class FilmAugmentation:
    """Random changes of X-rays `[0, 1]`; every strength of 0 leaves its step out.

    Args:
        zoom: of the detector, up to this share larger or smaller.
        shift: of the picture by turning the detector about the source, up to this share of the field.
        angle: degrees of patient rotation and tilt, only with `reproject`: there is parallax in it.
        distance: share by which the source comes nearer or further, only with `reproject`.
        reproject: make the X-ray anew from the stored volume for each sample, instead of mapping the picture. The
            volume has the model's resolution, so its X-ray is softer than one made of the whole CT.
        gamma: logarithm of the exponent, up to this.
        blur: largest standard deviation, in pixels.
        noise: largest standard deviation; stronger where the patient is denser, as fewer photons arrive.
        local_contrast: of ribs and vessels, up to this share more or half as much less.
        collimation: blades cover up to this share on each side.
        markers: share of X-rays with a side marker.
        lines: share of X-rays with leads, tubes or catheters.

    Raises:
        UserError: a negative strength; angle or distance without `reproject`.
    """

    def __init__(
        self,
        zoom: float = 0.08,
        shift: float = 0.04,
        angle: float = 0.0,
        distance: float = 0.0,
        reproject: bool = False,
        gamma: float = 0.3,
        blur: float = 1.0,
        noise: float = 0.03,
        local_contrast: float = 0.6,
        collimation: float = 0.06,
        markers: float = 0.4,
        lines: float = 0.2,
    ):
        self.settings = {k: v for k, v in locals().items() if k != "self"}
        for name, value in self.settings.items():
            if float(value) < 0:
                raise UserError(f"dataset.film.{name}={value}: give 0 or more")
        if (angle or distance) and not reproject:
            raise UserError(
                f"dataset.film.angle={angle}, distance={distance}: parallax; set dataset.film.reproject=true"
            )

    def describe(self) -> dict:
        """Plain JSON."""
        return dict(self.settings)

    def __call__(
        self,
        xray: Float[Tensor, "v h w"],
        pose: Float[Tensor, "v 9"],
        words: tuple[int, ...],
        render: Callable[[Float[Tensor, "v 9"]], Float[Tensor, "v h w"]] | None = None,
    ) -> tuple[Float[Tensor, "v h w"], Float[Tensor, "v 9"]]:
        """Changed X-rays and their poses; the same for the same `words` (seed, step, index).

        An unknown pose (NaN) stays, and so does the frame of its film.

        Args:
            render: makes X-rays at given poses, for `reproject`.
        """
        rng = np.random.default_rng((*words, STREAM))
        images, poses = [], []
        for image, place in zip(xray.float(), pose, strict=True):
            image, place = self._moved(image, place, rng, render)
            images.append(self._developed(image.numpy(), rng))
            poses.append(place)
        return torch.stack(images), torch.stack(poses)

    def _moved(self, image: Tensor, pose: Tensor, rng: np.random.Generator, render) -> tuple[Tensor, Tensor]:
        zoom = math.exp(rng.uniform(-1, 1) * math.log1p(self.settings["zoom"]))
        right, down = rng.uniform(-1, 1, 2) * self.settings["shift"]
        turn, tilt = rng.uniform(-1, 1, 2) * self.settings["angle"]
        nearer = math.exp(rng.uniform(-1, 1) * math.log1p(self.settings["distance"]))
        if torch.isnan(pose).any():
            return image, pose
        if self.settings["reproject"] and render is not None:
            pose = patient_moved(pose, turn, tilt, nearer)
        new = detector_turned(pose, right, down, zoom)
        if self.settings["reproject"] and render is not None:
            return render(new[None])[0], new
        return seen_from(image, pose, new), new

    def _developed(self, image: np.ndarray, rng: np.random.Generator) -> Tensor:
        strength = self.settings
        # Drawn in one order, whatever is switched on: one strength does not change the others' numbers.
        gamma = math.exp(rng.uniform(-1, 1) * strength["gamma"])
        sigma, level = rng.uniform(0, 1) * strength["blur"], rng.uniform(0, 1) * strength["noise"]
        grain, local = rng.standard_normal(image.shape), rng.uniform(-0.5, 1.0) * strength["local_contrast"]
        blades = rng.uniform(0, strength["collimation"], 4) * (rng.random() < BORDER_SHARE)
        marked, lined = rng.random() < strength["markers"], rng.random() < strength["lines"]
        height, width = image.shape
        image = np.clip(image, 0.0, 1.0)
        if lined:
            image = image + _lines(image.shape, rng)
        if local:
            image = image + local * (image - ndimage.gaussian_filter(image, LOCAL_SHARE * height))
        if sigma > 0.05:
            image = ndimage.gaussian_filter(image, sigma)
        image = image + level * grain * (0.5 + np.clip(image, 0.0, 1.0))
        if marked:
            image = np.maximum(image, _marker(image.shape, rng))
        top, bottom, left, right = (int(b * n) for b, n in zip(blades, (height, height, width, width), strict=True))
        field = torch.zeros(image.shape, dtype=torch.bool)
        field[top : height - bottom, left : width - right] = True
        return scale_xray(torch.from_numpy(image.astype(np.float32)), field) ** gamma


def detector_turned(pose: Float[Tensor, "9"], right: float, down: float, zoom: float) -> Float[Tensor, "9"]:
    """The pose after the detector was turned about the source, which stays, and its field made smaller by `zoom`.

    The picture's content moves to the right and down by about these shares of the field.
    """
    pose = pose.double()
    source = source_position(pose)
    new = pose.clone()
    across = math.degrees(math.atan(right * float(pose[8]) / float(pose[0])))
    new[2] = pose[2] - across / max(math.cos(math.radians(float(pose[3]))), 1e-3)
    new[3] = pose[3] - math.degrees(math.atan(down * float(pose[7]) / float(pose[0])))
    new[4:7] = source + camera_axes(new)[0] * new[1]
    new[7:9] = pose[7:9] / zoom
    return new.float()


def patient_moved(pose: Float[Tensor, "9"], turn: float, tilt: float, nearer: float) -> Float[Tensor, "9"]:
    """The pose after the patient turned and tilted by degrees, and stood so many times nearer to the source."""
    new = pose.clone()
    new[2], new[3] = pose[2] + turn, pose[3] + tilt
    moved = pose[1] * (1.0 - 1.0 / nearer)
    new[0], new[1] = pose[0] - moved, pose[1] - moved
    new[7:9] = pose[7:9] * (new[0] / new[1]) / (pose[0] / pose[1])  # the isocentre fills as much as before
    return new


def seen_from(image: Float[Tensor, "h w"], pose: Float[Tensor, "9"], new: Float[Tensor, "9"]) -> Float[Tensor, "h w"]:
    """An X-ray taken at `pose` as a detector at `new` shows it, source in the same place: an exact projective map.

    What the old detector did not catch is 0.

    Raises:
        ValueError: the source is in another place.
    """
    old, new = pose.double(), new.double()
    if (source_position(old) - source_position(new)).norm() > 1e-2 * float(old[1]) / 10:
        raise ValueError("the source has moved: that picture cannot be made from this one")
    beam, column, row = camera_axes(new)
    height, width = image.shape
    down, across = torch.meshgrid(
        (torch.arange(height, dtype=torch.float64) + 0.5) * 2 / height - 1,
        (torch.arange(width, dtype=torch.float64) + 0.5) * 2 / width - 1,
        indexing="ij",
    )
    # the ray of each new pixel, met with the old detector's plane
    ray = new[0] * beam + across[..., None] * new[8] / 2 * column + down[..., None] * new[7] / 2 * row
    beam, column, row = camera_axes(old)
    scale = old[0] / (ray @ beam)
    grid = torch.stack([scale * (ray @ column) * 2 / old[8], scale * (ray @ row) * 2 / old[7]], dim=-1)
    return F.grid_sample(image[None, None].float(), grid[None].float(), mode="bilinear", align_corners=False)[0, 0]


def _marker(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A bright R on the patient's right or L on the left, in an upper or lower corner."""
    height, width = shape
    canvas = Image.new("L", (width, height))
    size = max(6, int(rng.uniform(0.04, 0.08) * height))
    left_side = rng.random() < 0.7  # of the patient: right in the picture
    x = rng.uniform(0.82, 0.92) if left_side else rng.uniform(0.03, 0.12)
    y = rng.uniform(0.02, 0.2) if rng.random() < 0.8 else rng.uniform(0.75, 0.9)
    font = ImageFont.load_default(size)
    ImageDraw.Draw(canvas).text((x * width, y * height), "L" if left_side else "R", fill=255, font=font)
    return np.asarray(canvas, dtype=np.float32) / 255.0 * rng.uniform(0.8, 1.2)


def _lines(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """One to three smooth curves that absorb a little: leads, tubes, catheters."""
    height, width = shape
    canvas = Image.new("L", (2 * width, 2 * height))
    draw = ImageDraw.Draw(canvas)
    t = np.linspace(0.0, 1.0, 40)[:, None]
    for _ in range(int(rng.integers(1, 4))):
        a, b, c = rng.uniform(0.05, 0.95, (3, 2)) * (2 * width, 2 * height)
        curve = (1 - t) ** 2 * a + 2 * t * (1 - t) * b + t**2 * c  # quadratic Bezier
        draw.line([tuple(p) for p in curve], fill=int(rng.integers(80, 256)), width=int(rng.integers(1, 4)))
    small = canvas.resize((width, height), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32) / 255.0 * rng.uniform(0.1, 0.4)
