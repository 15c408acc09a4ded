"""DRRs from a CT volume: line integrals along the cone beam (nanodrr), and the grey scale of every X-ray."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dataset.imaging.forward_model import REMOVED, Attenuation, ForwardModel, attenuation_map
from dataset.imaging.geometry import camera_axes, extent_mm, source_position
from dataset.imaging.iodine import remove_iodine
from dataset.imaging.unknown_pixels import UNKNOWN

# Samples per voxel along the beam. Against 32 per voxel, line integrals of a thorax at 64^3 differ by 0.01 to 0.07 %
# on average and by 0.1 to 0.3 % of the maximum in the worst pixel, less than one of 256 grey levels.
SAMPLES_PER_VOXEL = 1.0
LOW_PERCENTILE, HIGH_PERCENTILE = 0.5, 99.5  # of the collimated field, mapped to 0 and 1
IMAGES = ("log", "linear")
_SAMPLES_PER_CHUNK = 4_000_000  # bands of rows limit the memory to about 100 MB


def line_integrals(
    hu: Float[Tensor, "d h w"],
    spacing,
    pose: Float[Tensor, "9"],
    size: tuple[int, int] = (128, 128),
    samples: int | None = None,
    attenuation: str = "bilinear",
) -> Float[Tensor, "rows columns"]:
    """Line integrals of the attenuation coefficient from the source to each detector pixel, dimensionless.

    Args:
        hu: volume in HU, not windowed, with air outside; the result is differentiable in it.
        spacing: mm, `(D, H, W)`.
        pose: `dataset.imaging.geometry.POSE_FIELDS`.
        size: rows and columns of the detector. Row 0 is superior, column 0 the patient's right at azimuth 0.
        samples: samples along each ray inside the volume; None derives them from the grid.
        attenuation: a key of `dataset.imaging.forward_model.MAPS`.
    """
    # a late import: machines that only read stored X-rays need no renderer
    from nanodrr.camera import make_k_inv
    from nanodrr.drr import render

    spacing = tuple(float(s) for s in spacing)
    _check(hu, spacing, pose, size)
    hu = hu if hu.dtype in (torch.float32, torch.float64) else hu.float()
    pose = pose.detach().to("cpu", torch.float64)
    samples = samples or _samples_needed(hu.shape, spacing, pose)
    height, width = size
    source_detector = float(pose[0])
    across = abs(float(pose[8])) / width
    k_inv = make_k_inv(source_detector, across, float(pose[7]) / height, 0.0, 0.0, height, width)
    pixels = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    pixels = torch.stack([pixels[1], pixels[0], torch.ones(height, width)], dim=-1)  # (u, v, 1)
    targets = (source_detector * pixels @ k_inv[0].T).to(hu)
    camera = _camera_to_world(pose).to(hu)[None]
    source_detector = torch.tensor([source_detector]).to(hu)
    source = torch.zeros(1, 1, 3).to(hu)
    subject = _subject(hu, spacing, attenuation_map(attenuation))
    bands = []
    for band in targets.split(max(1, _SAMPLES_PER_CHUNK // (samples * width))):
        rays = {"n_samples": samples, "src": source, "tgt": band.reshape(1, -1, 3)}
        bands.append(render(subject, k_inv.to(hu), camera, source_detector, len(band), width, **rays)[0, 0])
    image = torch.cat(bands)
    return image.flip(1) if pose[8] < 0 else image


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
) -> Float[Tensor, "v rows columns"]:
    """DRRs in `[0, 1]`, bright bone, one per pose, scaled by `scale_xray`.

    `image` is `log` for line integrals L, as in processed radiographs, or `linear` for -exp(-L), the negative
    transmission of the Beer-Lambert law; `attenuation` is that of `line_integrals`.
    """
    if poses.ndim != 2:
        raise ValueError(f"poses must be (views, 9), found {tuple(poses.shape)}")
    if image not in IMAGES:
        raise ValueError(f"image={image}: choose {' or '.join(IMAGES)}")
    views = [line_integrals(hu, spacing, pose, size, attenuation=attenuation) for pose in poses]
    return torch.stack([scale_xray(view if image == "log" else -torch.exp(-view)) for view in views])


def forward_image(
    hu: Float[Tensor, "d h w"], spacing, pose: Float[Tensor, "9"], size: tuple[int, int], model: ForwardModel
) -> Float[Tensor, "rows columns"]:
    """The X-ray of a volume by a forward model, before `scale_xray`."""
    if model.iodine == REMOVED:
        hu = torch.from_numpy(remove_iodine(hu.cpu().numpy(), tuple(spacing))).to(hu)
    # one sample per voxel along the beam: half the time, and 0.0001 away from twice as many
    integrals = line_integrals(hu, spacing, pose, size, max(hu.shape), model.attenuation)
    return integrals if model.image == "log" else -torch.exp(-integrals)


def _scale_one(image: Tensor, mask: Tensor | None) -> Tensor:
    values = image.reshape(-1) if mask is None else image[mask]
    if values.numel() == 0:
        raise ValueError("the collimated field is empty")
    # kthvalue: torch.quantile rejects more than 2^24 values, which a large radiograph has
    count = values.numel()
    low = values.kthvalue(1 + round((count - 1) * LOW_PERCENTILE / 100)).values
    high = values.kthvalue(1 + round((count - 1) * HIGH_PERCENTILE / 100)).values
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


def _samples_needed(shape, spacing: tuple, pose: Tensor) -> int:
    beam = camera_axes(pose)[0].abs().clamp(min=1e-6)
    length = min(e / float(b) for e, b in zip(extent_mm(shape, spacing), beam, strict=True))
    crossed = length * max(float(b) / s for s, b in zip(spacing, beam, strict=True))
    return max(2, math.ceil(SAMPLES_PER_VOXEL * (crossed + 2)))  # nanodrr samples one voxel beyond each face


def _to_world(vectors: Tensor) -> Tensor:
    """`(d, h, w)` mm in nanodrr's RAS world: right = -w, anterior = -h, superior = d."""
    return torch.stack([-vectors[..., 2], -vectors[..., 1], vectors[..., 0]], dim=-1)


def _camera_to_world(pose: Tensor) -> Tensor:
    beam, column, row = camera_axes(pose)
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = torch.stack([_to_world(column), _to_world(row), _to_world(beam)], dim=-1)
    matrix[:3, 3] = _to_world(source_position(pose))
    return matrix


def _subject(hu: Tensor, spacing: tuple, attenuation: Attenuation):
    from nanodrr.data import Subject

    middle = [(n - 1) / 2 * s for n, s in zip(hu.shape, spacing, strict=True)]  # the world origin
    voxel_to_world = torch.eye(4, dtype=torch.float64)
    voxel_to_world[:3, :3] = torch.diag(torch.tensor([-spacing[2], -spacing[1], spacing[0]], dtype=torch.float64))
    voxel_to_world[:3, 3] = torch.tensor([middle[2], middle[1], -middle[0]], dtype=torch.float64)
    voxel_to_grid = torch.eye(4, dtype=torch.float64)  # voxel indices to grid_sample's [-1, 1], align_corners=False
    counts = torch.tensor([hu.shape[2], hu.shape[1], hu.shape[0]], dtype=torch.float64)
    voxel_to_grid[:3, :3] = torch.diag(2.0 / counts)
    voxel_to_grid[:3, 3] = 1.0 / counts - 1.0
    return Subject(
        hu[None, None],
        torch.zeros(1, 1, 1, 1, 1).to(hu),  # no structures: one class
        voxel_to_world.to(hu),
        voxel_to_world.inverse().to(hu),
        voxel_to_grid.to(hu),
        torch.zeros(3).to(hu),
        max_label=0,
        mu_water=attenuation.water,
        mu_bone=attenuation.dense,
        hu_bone=attenuation.dense_hu,
    )
