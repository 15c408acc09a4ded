"""Patient axes, affines, the X-ray cone beam, and the orientation of slices for display.

Volumes are indexed `(D, H, W)`: D inferior to superior, H anterior to posterior, W patient right to left.
Points are in mm in the same order `(d, h, w)`, relative to the centre of the volume.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

POSE_FIELDS = (  # entries of a pose vector
    "source_detector",  # mm, source to detector plane (SID)
    "source_centre",  # mm, source to the isocentre
    "azimuth",  # degrees around D; 0 = posterior-anterior, 90 = lateral with the source at the patient's right
    "elevation",  # degrees; positive moves the source upward
    "centre_d",  # mm, isocentre relative to the centre of the volume
    "centre_h",
    "centre_w",
    "field_height",  # mm on the detector, rows
    "field_width",  # mm on the detector, columns; negative: columns are mirrored for display (AP)
)
VIEW_AZIMUTH = {"PA": 0.0, "AP": 180.0, "lateral": 90.0}  # degrees
VIEWS = tuple(VIEW_AZIMUTH)
FRONTAL_VIEWS = ("PA", "AP")
PLANES = ("axial", "coronal", "sagittal")  # slices along D, H, W
SOURCE_DETECTOR_MM = 1800.0  # erect chest radiograph, PA
AP_SOURCE_DETECTOR_MM = 1200.0  # bedside radiograph, AP: 1000 to 1300
PATIENT_DETECTOR_MM = 30.0  # gap between the volume and the detector plane


def make_pose(
    extent: tuple[float, float, float],
    azimuth: float = 0.0,
    elevation: float = 0.0,
    source_detector: float = SOURCE_DETECTOR_MM,
) -> Float[Tensor, "9"]:
    """Cone-beam pose with a square field for a volume of `extent` mm, `PATIENT_DETECTOR_MM` from the detector."""
    off_frontal = abs((azimuth + 90.0) % 180.0 - 90.0)  # degrees to the nearer of PA and AP
    depth, across = (extent[1], extent[2]) if off_frontal < 45 else (extent[2], extent[1])
    source_centre = source_detector - depth / 2.0 - PATIENT_DETECTOR_MM
    nearest = source_centre - depth / 2.0  # the face with the largest magnification
    field = max(extent[0], across) * source_detector / nearest
    return torch.tensor(
        [source_detector, source_centre, azimuth, elevation, 0.0, 0.0, 0.0, field, field], dtype=torch.float32
    )


def view_pose(
    extent: tuple[float, float, float],
    view: str = "PA",
    source_detector: float | None = None,
    field: tuple[float, float] | None = None,
) -> Float[Tensor, "9"]:
    """Pose of a view (PA, AP, lateral) in display order: column 0 is the patient's right, in a lateral anterior.

    An AP beam enters from the front, so a negative `field_width` mirrors its columns.

    Args:
        source_detector: mm; None means 1800, or 1200 for AP.
        field: height and width of the detector in mm; None fits the volume.
    """
    if view not in VIEW_AZIMUTH:
        raise ValueError(f"view={view}: choose {', '.join(VIEW_AZIMUTH)}")
    if source_detector is None:
        source_detector = AP_SOURCE_DETECTOR_MM if view == "AP" else SOURCE_DETECTOR_MM
    pose = make_pose(extent, VIEW_AZIMUTH[view], source_detector=float(source_detector))
    if field is not None:
        pose[7:9] = torch.tensor([float(f) for f in field])
    if view == "AP":
        pose[8] = -pose[8]
    return pose


def unknown_pose(views: int = 1, names: Sequence[str] = ()) -> Float[Tensor, "v 9"]:
    """Poses of X-rays with unknown geometry: NaN, except for the azimuth of a named view."""
    pose = torch.full((views, len(POSE_FIELDS)), float("nan"))
    for view, name in enumerate(names):
        pose[view, 2] = VIEW_AZIMUTH.get(name, float("nan"))
    return pose


def fill_unknown(pose: Float[Tensor, "*b 9"], extent: tuple[float, float, float]) -> Float[Tensor, "*b 9"]:
    """The poses; the nominal one of the view (by azimuth, else PA) for `extent` mm replaces each pose with a NaN."""
    nominal = torch.stack([view_pose(extent, name) for name in ("PA", "lateral", "AP")]).to(pose)
    quarter = torch.nan_to_num(pose[..., 2].detach(), nan=0.0).abs().div(90.0).round().clamp(max=2.0).long()
    return torch.where(torch.isnan(pose).any(dim=-1, keepdim=True), nominal[quarter], pose)


def camera_axes(pose: Float[Tensor, "*b 9"]) -> tuple[Tensor, Tensor, Tensor]:
    """Unit vectors `(…, 3)` in `(d, h, w)`: beam direction (source to detector), image column, image row.

    At azimuth 0 the beam runs posterior to anterior (-h), columns run right to left (+w), rows downward (-d).
    """
    azimuth, elevation = torch.deg2rad(pose[..., 2]), torch.deg2rad(pose[..., 3])
    sin_a, cos_a = torch.sin(azimuth), torch.cos(azimuth)
    sin_e, cos_e = torch.sin(elevation), torch.cos(elevation)
    beam = torch.stack([-sin_e, -cos_e * cos_a, cos_e * sin_a], dim=-1)
    column = torch.stack([torch.zeros_like(sin_a), sin_a, cos_a], dim=-1)
    row = torch.stack([-cos_e, sin_e * cos_a, -sin_e * sin_a], dim=-1)
    return beam, column, row


def source_position(pose: Float[Tensor, "*b 9"]) -> Float[Tensor, "*b 3"]:
    """Position of the X-ray source in mm `(d, h, w)` relative to the centre of the volume."""
    beam, _, _ = camera_axes(pose)
    return pose[..., 4:7] - beam * pose[..., 1:2]


def project(points: Float[Tensor, "*p 3"], pose: Float[Tensor, "9"]) -> Float[Tensor, "*p 2"]:
    """Detector coordinates `(column, row)` of points in mm, `[-1, 1]` from edge to edge as in `F.grid_sample`."""
    return project_rays(points - source_position(pose), pose)


def project_rays(rays: Float[Tensor, "*p 3"], pose: Float[Tensor, "9"]) -> Float[Tensor, "*p 2"]:
    """`project` for vectors from the source, in mm."""
    beam, column, row = camera_axes(pose)
    scale = pose[0] / (rays @ beam)  # magnification of the central projection
    return torch.stack([scale * (rays @ column) * 2.0 / pose[8], scale * (rays @ row) * 2.0 / pose[7]], dim=-1)


def voxel_centres(
    size: tuple[int, int, int], extent: tuple[float, float, float], device=None
) -> Float[Tensor, "d h w 3"]:
    """Voxel centres in mm, relative to the volume centre, of a grid of `size` voxels over `extent` mm."""
    axes = [
        ((torch.arange(n, device=device, dtype=torch.float32) + 0.5) / n - 0.5) * length
        for n, length in zip(size, extent, strict=True)
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def extent_mm(size, spacing) -> tuple[float, float, float]:
    """Edge-to-edge size in mm of a grid of `size` voxels with `spacing` mm, both `(D, H, W)`."""
    return tuple(float(n) * float(s) for n, s in zip(size, spacing, strict=True))


def nifti_affine(spacing, centre_ras=(0.0, 0.0, 0.0), size=(1, 1, 1)) -> np.ndarray:
    """RAS affine `(4, 4)` of a NIfTI with array axes `(W, H, D)`: W to the left, H to posterior, D to superior.

    `centre_ras` is the centre in mm of a volume of `size` voxels `(D, H, W)`.
    """
    affine = np.diag([-float(spacing[2]), -float(spacing[1]), float(spacing[0]), 1.0])
    middle = np.array([size[2] - 1, size[1] - 1, size[0] - 1]) / 2.0
    affine[:3, 3] = np.asarray(centre_ras, dtype=float) - affine[:3, :3] @ middle
    return affine


def display_slice(volume, plane: str, index: int | None = None):
    """A slice of a volume `(D, H, W)` in radiological display; by default the middle one.

    Superior is up, the patient's right on the left, in a sagittal slice the anterior side. Axial slices show the view
    from below, anterior up. No other function flips a volume for display.
    """
    axis = PLANES.index(plane)
    middle = volume.shape[axis] // 2 if index is None else index
    if plane == "axial":
        return volume[middle]
    flip = torch.flip if isinstance(volume, torch.Tensor) else np.flip
    return flip(volume[:, middle] if plane == "coronal" else volume[:, :, middle], (0,))


# letters at the left, right, top and bottom edge of `display_slice`
DISPLAY_MARKS = {"axial": ("R", "L", "A", "P"), "coronal": ("R", "L", "S", "I"), "sagittal": ("A", "P", "S", "I")}
