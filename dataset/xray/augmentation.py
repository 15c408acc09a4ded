"""Random changes of training X-rays, so that a model trained on DRRs works on real radiographs.

Rotating the detector about a fixed source, or resizing it, maps the image exactly by a homography: every ray stays the
same. Moving the source or the patient causes parallax and needs a new projection (`reproject`). What a changed X-ray
does not show is NaN (`dataset.imaging.unknown_pixels`).
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor

from common.errors import UserError
from dataset.imaging.drr import scale_xray
from dataset.imaging.geometry import camera_axes, source_position
from dataset.xray.film_changes import grey_curve, leads, local_mean, mapped, marker, roll_map, shown

STREAM = 1  # separates these random numbers from those of the crop, which share (seed, step, index)
COLLIMATED, CROPPED, PADDED = 0.4, 0.7, 0.2  # shares of the X-rays with blades, cut sides, padding
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
    roll: float = 3.0  # degrees of rotation in the image plane, which the pose does not contain
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
    curve: float = 0.3  # share of X-rays with a random monotone grey-scale curve
    markers: float = 0.4  # share of X-rays with a side marker
    lines: float = 0.2  # share of X-rays with leads, electrodes, tubes or catheters

    def __post_init__(self):
        _expect_not_negative(self)


@dataclass(frozen=True)
class FieldChanges:
    """Largest parts of the field that the X-ray does not show; 0 turns a change off."""

    collimation: float = 0.12  # share of each side that blades cover
    tilt: float = 4.0  # degrees of the blades
    crop: float = 0.2  # share of each side beyond the end of the film, as of films aligned by their lungs
    letterbox: float = 0.12  # share of two opposite sides that padding covers
    unmarked: float = 0.2  # share of X-rays with grey values there, as of files that do not mark padding

    def __post_init__(self):
        _expect_not_negative(self)
        for name in ("collimation", "crop", "letterbox"):
            if (value := getattr(self, name)) >= 0.25:
                raise UserError(f"dataset.film.{name}={value}: little of the X-ray would be left; give less than 0.25")


@dataclass(frozen=True)
class XrayAugmentation:
    """Random changes of X-rays in `[0, 1]`, NaN where they are unknown."""

    geometry: GeometryChanges = GeometryChanges()
    appearance: AppearanceChanges = AppearanceChanges()
    field: FieldChanges = FieldChanges()

    def describe(self) -> dict:
        """Plain JSON."""
        return {**asdict(self.geometry), **asdict(self.appearance), **asdict(self.field)}

    def __call__(
        self,
        xray: Float[Tensor, "v h w"],
        pose: Float[Tensor, "v 9"],
        words: tuple[int, ...],
        render: Callable[[Float[Tensor, "v 9"]], Float[Tensor, "v h w"]] | None = None,
    ) -> tuple[Float[Tensor, "v h w"], Float[Tensor, "v 9"]]:
        """Changed X-rays and their poses; equal `words` (seed, step, index) give equal results.

        An X-ray of unknown pose (NaN) keeps its pose and, but for the roll, its geometry. `reproject` calls `render`.
        """
        rng = np.random.default_rng((*words, STREAM))
        images, poses = [], []
        for image, view_pose in zip(xray.float(), pose, strict=True):
            image, view_pose = self._change_geometry(image, view_pose, rng, render)
            field, level = self._draw_field(image.shape, rng)
            image = self._change_appearance(image, field, rng)
            images.append(image if level is None else image.nan_to_num(level))
            poses.append(view_pose)
        return torch.stack(images), torch.stack(poses)

    def _change_geometry(self, image: Tensor, pose: Tensor, rng: np.random.Generator, render) -> tuple[Tensor, Tensor]:
        limits = self.geometry
        zoom = math.exp(rng.uniform(-1, 1) * math.log1p(limits.zoom))
        right, down = rng.uniform(-1, 1, 2) * limits.shift
        rotation, tilt = rng.uniform(-1, 1, 2) * limits.angle
        nearer = math.exp(rng.uniform(-1, 1) * math.log1p(limits.distance))
        roll = roll_map(rng.uniform(-1, 1) * limits.roll, image.shape[1] / image.shape[0])
        if torch.isnan(pose).any():
            return mapped(image, roll), pose
        if limits.reproject and render is not None:
            new = rotate_detector(move_patient(pose, rotation, tilt, nearer), right, down, zoom)
            return mapped(render(new[None])[0], roll), new
        new = rotate_detector(pose, right, down, zoom)
        return mapped(image, homography(pose, new) @ roll), new

    def _draw_field(self, shape: tuple[int, int], rng: np.random.Generator) -> tuple[np.ndarray, float | None]:
        """Where the X-ray shows the patient, and the grey value of the rest; None if that is unknown."""
        limits = self.field
        blades = rng.uniform(0, limits.collimation, 4) * (rng.random() < COLLIMATED)
        tilt, crop = rng.normal() * limits.tilt / 2, rng.uniform(0, limits.crop, 4)
        bar, upright = rng.uniform(0, limits.letterbox), rng.random() < 0.5
        cropped, padded, unmarked = rng.random(3) < (CROPPED, PADDED, limits.unmarked)
        level = max(0.0, rng.uniform(-1.5, 1.0))  # mostly black
        field = np.ones(shape, dtype=bool)
        if blades.any():
            field &= shown(shape, blades, float(np.clip(tilt, -limits.tilt, limits.tilt)))
        if cropped:
            field &= shown(shape, crop)
        if padded:
            field &= shown(shape, (0.0, 0.0, bar, bar) if upright else (bar, bar, 0.0, 0.0))
        return field, level if unmarked else None

    def _change_appearance(self, image: Tensor, field: np.ndarray, rng: np.random.Generator) -> Tensor:
        limits = self.appearance
        # a fixed order of draws: one setting does not change the numbers of the others
        gamma = math.exp(rng.uniform(-1, 1) * limits.gamma)
        sigma, level = rng.uniform(0, 1) * limits.blur, rng.uniform(0, 1) * limits.noise
        grain, local = rng.standard_normal(image.shape, np.float32), rng.uniform(-0.5, 1.0) * limits.local_contrast
        with_curve, steps = rng.random() < limits.curve, rng.uniform(0.4, 1.0, 5)
        with_marker, with_lines = rng.random() < limits.markers, rng.random() < limits.lines
        known = torch.from_numpy(field) & ~image.isnan()
        image = image.nan_to_num(float(image.nanmean())).clamp(0.0, 1.0).numpy()  # filters see no edge
        if with_lines:
            image = image + leads(image.shape, rng)
        if local:
            image = image + local * (image - local_mean(image, LOCAL_SHARE))
        if sigma > 0.25:  # less is none
            image = ndimage.gaussian_filter(image, sigma)
        image = image + level * grain * (0.5 + np.clip(image, 0.0, 1.0))
        if with_marker:
            image = np.maximum(image, marker(image.shape, rng))
        scaled = scale_xray(torch.from_numpy(image.astype(np.float32, copy=False)), known) ** gamma
        return grey_curve(scaled, steps) if with_curve else scaled


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


def homography(pose: Float[Tensor, "9"], new: Float[Tensor, "9"]) -> Float[np.ndarray, "3 3"]:
    """Detector `(column, row, 1)` of `new` to that of `pose`, up to scale; ValueError for another source."""
    both = torch.stack([pose, new]).double()
    axes = torch.stack(camera_axes(both), dim=1).numpy()  # of each pose: beam, column, row
    old, new = both.numpy()
    sources = both.numpy()[:, 4:7] - axes[:, 0] * both.numpy()[:, 1:2]
    if np.linalg.norm(sources[0] - sources[1]) > 1e-3 * old[1]:
        raise ValueError("the source has moved: a homography cannot map this image, render it again")
    beam, column, row = axes[1]
    rays = np.stack([new[8] / 2 * column, new[7] / 2 * row, new[0] * beam], axis=1)
    beam, column, row = axes[0]
    return np.stack([2 * old[0] / old[8] * column, 2 * old[0] / old[7] * row, beam]) @ rays
