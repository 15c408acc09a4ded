"""Random changes of training X-rays, so that a model trained on DRRs works on real radiographs.

Rotating the detector about a fixed source, or resizing it, maps the image exactly by a homography: every ray stays the
same. Moving the source or the patient causes parallax and needs a new projection (`reproject`).
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from common.errors import UserError
from dataset.imaging.drr import scale_xray
from dataset.imaging.geometry import camera_axes, project_rays, source_position

STREAM = 1  # separates these random numbers from those of the crop, which share (seed, step, index)
BORDER_SHARE = 0.5  # share of the X-rays with collimator blades
LOCAL_SHARE = 1 / 12  # of the image height: standard deviation of the blur that defines local contrast


def _expect_not_negative(changes) -> None:
    for name, value in asdict(changes).items():
        if float(value) < 0:
            raise UserError(f"dataset.film.{name}={value}: give 0 or more")


@dataclass(frozen=True)
class GeometryChanges:
    """Largest changes of the projection; 0 turns a change off.

    `reproject` renders each sample from its stored volume instead of mapping the image. The volume has the model's
    resolution, so the X-ray is less sharp than one rendered from the original CT.
    """

    zoom: float = 0.08  # relative change of the detector size
    shift: float = 0.04  # image shift as a share of the field, by a rotation of the detector about the source
    angle: float = 0.0  # degrees of patient rotation and tilt; needs `reproject`
    distance: float = 0.0  # relative change of the source distance; needs `reproject`
    reproject: bool = False

    def __post_init__(self):
        _expect_not_negative(self)
        if (self.angle or self.distance) and not self.reproject:
            raise UserError(
                f"dataset.film.angle={self.angle}, distance={self.distance}: parallax; set dataset.film.reproject=true"
            )


@dataclass(frozen=True)
class AppearanceChanges:
    """Largest changes of the image content; 0 turns a change off."""

    gamma: float = 0.3  # absolute logarithm of the exponent
    blur: float = 1.0  # standard deviation in pixels
    noise: float = 0.03  # standard deviation; it grows with attenuation, as photon noise does
    local_contrast: float = 0.6  # relative gain of ribs and vessels; the loss is at most half of it
    collimation: float = 0.06  # share of each side that blades cover
    markers: float = 0.4  # share of X-rays with a side marker
    lines: float = 0.2  # share of X-rays with leads, tubes or catheters

    def __post_init__(self):
        _expect_not_negative(self)


@dataclass(frozen=True)
class XrayAugmentation:
    """Random changes of X-rays in `[0, 1]`."""

    geometry: GeometryChanges = GeometryChanges()
    appearance: AppearanceChanges = AppearanceChanges()

    def describe(self) -> dict:
        """Plain JSON."""
        return {**asdict(self.geometry), **asdict(self.appearance)}

    def __call__(
        self,
        xray: Float[Tensor, "v h w"],
        pose: Float[Tensor, "v 9"],
        words: tuple[int, ...],
        render: Callable[[Float[Tensor, "v 9"]], Float[Tensor, "v h w"]] | None = None,
    ) -> tuple[Float[Tensor, "v h w"], Float[Tensor, "v 9"]]:
        """Changed X-rays and their poses; equal `words` (seed, step, index) give equal results.

        An X-ray of unknown pose (NaN) keeps its pose and its geometry. `reproject` calls `render`.
        """
        rng = np.random.default_rng((*words, STREAM))
        images, poses = [], []
        for image, view_pose in zip(xray.float(), pose, strict=True):
            image, view_pose = self._change_geometry(image, view_pose, rng, render)
            images.append(self._change_appearance(image.numpy(), rng))
            poses.append(view_pose)
        return torch.stack(images), torch.stack(poses)

    def _change_geometry(self, image: Tensor, pose: Tensor, rng: np.random.Generator, render) -> tuple[Tensor, Tensor]:
        limits = self.geometry
        zoom = math.exp(rng.uniform(-1, 1) * math.log1p(limits.zoom))
        right, down = rng.uniform(-1, 1, 2) * limits.shift
        rotation, tilt = rng.uniform(-1, 1, 2) * limits.angle
        nearer = math.exp(rng.uniform(-1, 1) * math.log1p(limits.distance))
        if torch.isnan(pose).any():
            return image, pose
        if limits.reproject and render is not None:
            new = rotate_detector(move_patient(pose, rotation, tilt, nearer), right, down, zoom)
            return render(new[None])[0], new
        new = rotate_detector(pose, right, down, zoom)
        return warp_to_pose(image, pose, new), new

    def _change_appearance(self, image: np.ndarray, rng: np.random.Generator) -> Tensor:
        limits = self.appearance
        # a fixed order of draws: one setting does not change the numbers of the others
        gamma = math.exp(rng.uniform(-1, 1) * limits.gamma)
        sigma, level = rng.uniform(0, 1) * limits.blur, rng.uniform(0, 1) * limits.noise
        grain, local = rng.standard_normal(image.shape), rng.uniform(-0.5, 1.0) * limits.local_contrast
        blades = rng.uniform(0, limits.collimation, 4) * (rng.random() < BORDER_SHARE)
        with_marker, with_lines = rng.random() < limits.markers, rng.random() < limits.lines
        height, width = image.shape
        image = np.clip(image, 0.0, 1.0)
        if with_lines:
            image = image + _lines(image.shape, rng)
        if local:
            image = image + local * (image - ndimage.gaussian_filter(image, LOCAL_SHARE * height))
        if sigma > 0.05:
            image = ndimage.gaussian_filter(image, sigma)
        image = image + level * grain * (0.5 + np.clip(image, 0.0, 1.0))
        if with_marker:
            image = np.maximum(image, _marker(image.shape, rng))
        top, bottom, left, right = (int(b * n) for b, n in zip(blades, (height, height, width, width), strict=True))
        field = torch.zeros(image.shape, dtype=torch.bool)
        field[top : height - bottom, left : width - right] = True
        return scale_xray(torch.from_numpy(image.astype(np.float32)), field) ** gamma


def rotate_detector(pose: Float[Tensor, "9"], right: float, down: float, zoom: float) -> Float[Tensor, "9"]:
    """The pose after a rotation of the detector about the fixed source, with its field divided by `zoom`.

    The image content moves right and down by about these shares of the field.
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


def move_patient(pose: Float[Tensor, "9"], rotation: float, tilt: float, nearer: float) -> Float[Tensor, "9"]:
    """The pose after the patient rotated and tilted by degrees and moved `nearer` times closer to the source."""
    new = pose.clone()
    new[2], new[3] = pose[2] + rotation, pose[3] + tilt
    moved = pose[1] * (1.0 - 1.0 / nearer)
    new[0], new[1] = pose[0] - moved, pose[1] - moved
    new[7:9] = pose[7:9] * (new[0] / new[1]) / (pose[0] / pose[1])  # keeps the field at the isocentre
    return new


def warp_to_pose(
    image: Float[Tensor, "h w"], pose: Float[Tensor, "9"], new: Float[Tensor, "9"]
) -> Float[Tensor, "h w"]:
    """The X-ray mapped by a homography to the detector of `new`, 0 outside; ValueError for another source."""
    old, new = pose.double(), new.double()
    if (source_position(old) - source_position(new)).norm() > 1e-2 * float(old[1]) / 10:
        raise ValueError("the source has moved: a homography cannot map this image, render it again")
    beam, column, row = camera_axes(new)
    height, width = image.shape
    down, across = torch.meshgrid(
        (torch.arange(height, dtype=torch.float64) + 0.5) * 2 / height - 1,
        (torch.arange(width, dtype=torch.float64) + 0.5) * 2 / width - 1,
        indexing="ij",
    )
    # the ray of each new pixel, intersected with the old detector plane
    ray = new[0] * beam + across[..., None] * new[8] / 2 * column + down[..., None] * new[7] / 2 * row
    grid = project_rays(ray, old)[None].float()
    return F.grid_sample(image[None, None].float(), grid, mode="bilinear", align_corners=False)[0, 0]


def _marker(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Image of a bright R on the patient's right or L on the left, in an upper or lower corner."""
    height, width = shape
    canvas = Image.new("L", (width, height))
    size = max(6, int(rng.uniform(0.04, 0.08) * height))
    left_side = rng.random() < 0.7  # of the patient: the right of the image
    x = rng.uniform(0.82, 0.92) if left_side else rng.uniform(0.03, 0.12)
    y = rng.uniform(0.02, 0.2) if rng.random() < 0.8 else rng.uniform(0.75, 0.9)
    font = ImageFont.load_default(size)
    ImageDraw.Draw(canvas).text((x * width, y * height), "L" if left_side else "R", fill=255, font=font)
    return np.asarray(canvas, dtype=np.float32) / 255.0 * rng.uniform(0.8, 1.2)


def _lines(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Image of one to three faint smooth curves: leads, tubes, catheters."""
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
