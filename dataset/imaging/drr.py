"""DRRs from a CT volume: line integrals along the cone beam (Joseph), and the grey scale of every X-ray."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from dataset.imaging.forward_model import (
    REMOVED,
    Attenuation,
    ForwardModel,
    attenuation_map,
    photons_per_pixel,
    with_quantum_noise,
)
from dataset.imaging.geometry import camera_axes, extent_mm, source_position
from dataset.imaging.iodine import remove_iodine
from dataset.imaging.unknown_pixels import UNKNOWN

OBLIQUE = 0.95  # cosine of the beam with an axis, below which rays cross several voxels between two planes
PLANES_PER_VOXEL = 3  # of oblique beams
LOW_PERCENTILE, HIGH_PERCENTILE = 0.5, 99.5  # of the collimated field, mapped to 0 and 1
IMAGES = ("log", "linear")
NOISE_STREAM = 5  # separates the random numbers of noise from others of the same words
_SAMPLES_PER_CHUNK = 4_000_000  # groups of planes limit the memory to about 100 MB


def line_integrals(
    hu: Float[torch.Tensor, "d h w"],
    spacing,
    pose: Float[torch.Tensor, "9"],
    size: tuple[int, int] = (128, 128),
    attenuation: str = "bilinear",
) -> Float[torch.Tensor, "rows columns"]:
    """Line integrals of the attenuation coefficient from the source to each detector pixel, dimensionless.

    Each ray is sampled where it crosses the planes of voxel centres across the beam, by bilinear interpolation in the
    plane (Joseph, "An improved algorithm for reprojecting rays through pixel images", IEEE Transactions on Medical
    Imaging 1, 1982); of an oblique beam also between these planes. The volume fades to air within the voxel beyond
    its outermost centres.

    Args:
        hu: volume in HU, not windowed, with air outside; the result is differentiable in it.
        spacing: mm, `(D, H, W)`.
        pose: `dataset.imaging.geometry.POSE_FIELDS`.
        size: rows and columns of the detector. Row 0 is superior, column 0 the patient's right at azimuth 0.
        attenuation: a key of `dataset.imaging.forward_model.MAPS`.
    """
    spacing = tuple(float(s) for s in spacing)
    _check(hu, spacing, pose, size)
    mu = _attenuated(hu if hu.dtype in (torch.float32, torch.float64) else hu.float(), attenuation_map(attenuation))
    pose = pose.detach().to("cpu", torch.float64)
    source, rays = source_position(pose).tolist(), _rays(pose, size)
    beam = camera_axes(pose)[0].abs()
    across = int(beam.argmax())  # the axis along which planes follow
    first, second = (axis for axis in range(3) if axis != across)
    slope = [(rays[..., axis] / rays[..., across]).to(mu) for axis in (first, second)]  # mm in the plane per mm across
    oblique = float(beam[across]) < OBLIQUE
    planes, step = mu.movedim(across, 0), spacing[across] / (PLANES_PER_VOXEL if oblique else 1)
    planes = _between(planes) if oblique else planes
    depth = (torch.arange(len(planes), dtype=torch.float64) + 0.5 - len(planes) / 2) * step - source[across]
    image = torch.zeros(size).to(mu)
    reach = float(beam @ torch.tensor(extent_mm(hu.shape, spacing), dtype=torch.float64)) / 2  # of a corner
    centre = -float(
        torch.tensor(source, dtype=torch.float64) @ camera_axes(pose)[0]
    )  # from the source, along the beam
    cut = centre < reach or centre + reach > float(pose[0])  # the volume extends beyond source or detector
    half = [mu.shape[axis] * spacing[axis] / 2 for axis in (first, second)]
    for part in torch.arange(len(planes)).split(max(1, _SAMPLES_PER_CHUNK // (size[0] * size[1]))):
        along = depth[part].to(mu)[:, None, None]
        down, right = ((source[axis] + along * s) / h for axis, s, h in zip((first, second), slope, half, strict=True))
        grid = torch.stack([right, down], dim=-1)
        sampled = F.grid_sample(planes[part.to(mu.device), None], grid, mode="bilinear", align_corners=False)[:, 0]
        if cut:
            share = along / rays[..., across].to(mu)  # of the way to the detector
            sampled = torch.where((share >= 0) & (share <= 1), sampled, 0)
        image = image + sampled.sum(dim=0)
    return image * (rays.norm(dim=-1) / rays[..., across].abs() * step).to(mu)


def scale_xray(
    image: Float[Tensor, "*b h w"], field: Bool[Tensor, "*b h w"] | Bool[Tensor, "h w"] | None = None
) -> Float[Tensor, "*b h w"]:
    """Line integrals or pixel values (MONOCHROME2) scaled to `[0, 1]` by the 0.5 and 99.5 percentiles of each image.

    `field` is True inside the collimated field; pixels outside do not count and become NaN, which is unknown; so do
    pixels that are NaN. ValueError for infinite values, an empty field, or a constant image.
    """
    if image.ndim < 2:
        raise ValueError(f"an X-ray has the shape (…, h, w), found {tuple(image.shape)}")
    if torch.isinf(image).any():
        raise ValueError("the X-ray holds infinite values")
    flat = image.reshape(-1, *image.shape[-2:]).float()
    known = ~flat.isnan() if field is None else field.expand(image.shape).reshape(flat.shape) & ~flat.isnan()
    masks = [None if mask.all() else mask for mask in known]
    scaled = [_scale_one(single, mask) for single, mask in zip(flat, masks, strict=True)]
    return torch.stack(scaled).reshape(image.shape)


def render_xray(
    hu: Float[Tensor, "d h w"],
    spacing,
    poses: Float[Tensor, "v 9"],
    size: tuple[int, int] = (128, 128),
    image: str = "log",
    attenuation: str = "bilinear",
    photons: float | None = None,
    stream: tuple[int, ...] | None = None,
) -> Float[Tensor, "v rows columns"]:
    """DRRs in `[0, 1]`, bright bone, one per pose, scaled by `scale_xray`.

    `image` is `log` for line integrals L, as in processed radiographs, or `linear` for -exp(-L), the negative
    transmission of the Beer-Lambert law; `attenuation` is that of `line_integrals`. With `photons` per mm² of the
    detector in the open field, the line integrals have quantum noise (`with_quantum_noise`), which the random words
    `stream` and the number of the view determine.
    """
    if poses.ndim != 2:
        raise ValueError(f"poses must be (views, 9), found {tuple(poses.shape)}")
    if image not in IMAGES:
        raise ValueError(f"image={image}: choose {' or '.join(IMAGES)}")
    if photons is not None and stream is None:
        raise ValueError("photons without stream: give random words, so that each case has noise of its own")
    views = [line_integrals(hu, spacing, pose, size, attenuation=attenuation) for pose in poses]
    if photons is not None:
        counts = [photons_per_pixel(photons, pose, size) for pose in poses]
        words = [(NOISE_STREAM, number, *stream) for number in range(len(views))]
        views = [with_quantum_noise(*noisy) for noisy in zip(views, counts, words, strict=True)]
    return torch.stack([scale_xray(view if image == "log" else -torch.exp(-view)) for view in views])


def forward_image(
    hu: Float[Tensor, "d h w"], spacing, pose: Float[Tensor, "9"], size: tuple[int, int], model: ForwardModel
) -> Float[Tensor, "rows columns"]:
    """The X-ray of a volume by a forward model, before `scale_xray`."""
    if model.iodine == REMOVED:
        hu = torch.from_numpy(remove_iodine(hu.cpu().numpy(), tuple(spacing))).to(hu)
    integrals = line_integrals(hu, spacing, pose, size, model.attenuation)
    return integrals if model.image == "log" else -torch.exp(-integrals)


def scale_range(values: Float[Tensor, " n"]) -> tuple[Tensor, Tensor]:
    """The values that `scale_xray` maps to 0 and 1; ValueError without any value."""
    count = values.numel()
    if count == 0:
        raise ValueError("the collimated field is empty")
    # kthvalue: torch.quantile rejects more than 2^24 values, which a large radiograph has
    ranks = (1 + round((count - 1) * share / 100) for share in (LOW_PERCENTILE, HIGH_PERCENTILE))
    low, high = (values.kthvalue(rank).values for rank in ranks)
    return low, high


def _scale_one(image: Tensor, mask: Tensor | None) -> Tensor:
    low, high = scale_range(image.reshape(-1) if mask is None else image[mask])
    if not high > low:
        raise ValueError(f"the X-ray is constant ({float(low):g}) inside its field")
    scaled = ((image - low) / (high - low)).clamp(0.0, 1.0)
    return scaled if mask is None else torch.where(mask, scaled, UNKNOWN)


def _check(hu: Tensor, spacing: tuple, pose: Tensor, size: tuple) -> None:
    if hu.ndim != 3:
        raise ValueError(f"the volume must be (D, H, W), found the shape {tuple(hu.shape)}")
    if not torch.isfinite(hu).all():
        raise ValueError("the volume holds NaN or infinite HU")
    if len(spacing) != 3 or not all(math.isfinite(s) and s > 0 for s in spacing):
        raise ValueError(f"spacing must be three positive mm (D, H, W), found {spacing}")
    if pose.shape != (9,) or not torch.isfinite(pose).all():
        raise ValueError(f"pose must be 9 known numbers (dataset.imaging.geometry.POSE_FIELDS), found {pose.tolist()}")
    if not (pose[0] > 0 and pose[1] > 0 and pose[7] > 0 and pose[8] != 0):
        raise ValueError(f"pose must have positive distances and field, found {pose.tolist()}")
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size must be (rows, columns) of at least 1, found {tuple(size)}")


def _rays(pose: Tensor, size: tuple[int, int]) -> Float[Tensor, "rows columns 3"]:
    """Vectors `(d, h, w)` in mm from the source to the centre of each pixel, as its pose states the field."""
    beam, column, row = camera_axes(pose)
    down, right = ((torch.arange(n, dtype=pose.dtype) + 0.5) / n - 0.5 for n in size)
    rows, columns = down[:, None, None] * pose[7] * row, right[:, None] * pose[8] * column
    return pose[0] * beam + rows + columns


def _between(planes: Float[Tensor, "n a b"]) -> Float[Tensor, "m a b"]:
    """`PLANES_PER_VOXEL` planes in place of each, interpolated linearly, from air to air."""
    planes = F.pad(planes, (0, 0, 0, 0, 1, 1))
    share = (torch.arange(PLANES_PER_VOXEL) / PLANES_PER_VOXEL).to(planes)[:, None, None]
    return torch.lerp(planes[:-1, None], planes[1:, None], share).flatten(0, 1)[1:]


def _attenuated(hu: Tensor, attenuation: Attenuation) -> Tensor:
    """Linear attenuation coefficients in 1/mm, never negative."""
    water, dense = attenuation.water, attenuation.dense
    soft = (hu / 1000.0 + 1.0).clamp(0.0, 1.0) * water
    return soft + (hu / attenuation.dense_hu).clamp(min=0.0) * (dense - water)
