"""A CT volume in HU from the slices of a DICOM series.

Image Position and Orientation (Patient) alone determine order, gaps, shear and duplicates, not file names or instance
numbers.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
from jaxtyping import Float
from scipy import ndimage

from common.errors import UserError
from common.file_limits import expect_voxels
from dataset.imaging.coverage import NOT_SCANNED_HU, at_least_air
from dataset.imaging.hu_window import AIR_HU
from dataset.imaging.lung_segmentation import GAS_BELOW_HU
from dataset.imaging.volume import STRAIGHT, Volume, check_geometry, check_hu, reorient
from dataset.io.dicom_groups import SAME_PLACE_MM
from dataset.io.dicom_headers import HEADER_ERRORS, group_item, is_multiframe, normal_of, read_dicom
from dataset.io.dicom_pixels import padding_range, stored_values
from dataset.io.dicom_series import CtSeries
from dataset.io.slice_positions import fit_stack
from dataset.io.volume_files import read_file

STRAIGHT_DEGREES = 0.1  # largest tilt without resampling: 0.35 mm at 200 mm from the centre


def read_series(series: CtSeries, name: str | Path | None = None) -> Volume:
    """The volume of a stack, in the array order of `dataset.io.ct`, with padding set to air and HU of at least -1024.

    `name` replaces the path in messages, for example by a pseudonym. UserError for a slice without pixels or in an
    unsupported syntax, different slices at one position, missing slices, uneven spacing, gantry tilt and invalid HU.
    """
    name = str(name or series.files[0])
    if series.is_file:
        try:
            volume = read_file(series.files[0])
        except UserError as error:
            raise UserError(str(error).replace(str(series.files[0]), name)) from error
        volume.hu = at_least_air(volume.hu)
        return volume
    slices = _without_duplicates(sorted(_slices(series, name), key=lambda one: one.height), name)
    if len(slices) < 2:
        raise UserError(f"{name}: a single slice is no volume; give the whole series")
    first = slices[0]
    stack = fit_stack(np.stack([one.position for one in slices]), first.normal)
    if stack.fault:
        raise UserError(f"{name}: {stack.fault}")
    hu = np.stack([one.hu for one in slices])
    for one in slices:
        one.hu = None  # frees up to a GB
    check_hu(hu, name)
    np.maximum(hu, AIR_HU, out=hu)
    affine = np.eye(4)
    affine[:3, :3] = np.stack([stack.step, first.down * first.spacing[0], first.across * first.spacing[1]], axis=1)
    affine[:3, 3] = stack.first
    volume = reorient(hu, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)  # DICOM's LPS to RAS
    check_geometry(volume, name)
    return volume


def straighten(volume: Volume) -> Volume:
    """An oblique volume resampled onto the patient axes at the same spacing, in its bounding box.

    What the scan did not cover is marked or air, by the rule of `dataset.imaging.coverage.padded`.

    A volume with a tilt below 0.1 degrees keeps its voxels and loses its direction.
    """
    if tilt_degrees(volume) < STRAIGHT_DEGREES:
        return Volume(volume.hu, volume.spacing, volume.centre)
    turn = STRAIGHT.T @ np.asarray(volume.direction)  # scan axes to patient axes, both (D, H, W)
    extent = np.abs(turn) @ np.array(volume.extent)
    spacing = np.array(volume.spacing)
    size = np.maximum(1, np.ceil(extent / spacing - 1e-6)).astype(int)
    # output voxels to mm, to scan axes, which headers may shear a little, to input voxels
    matrix = np.linalg.inv(turn) * spacing / spacing[:, None]
    offset = (np.array(volume.hu.shape) - 1) / 2.0 - matrix @ ((size - 1) / 2.0)
    hu = ndimage.affine_transform(volume.hu, matrix, offset, tuple(size), order=1, mode="nearest")
    places = np.ogrid[tuple(slice(n) for n in size)]
    outside = []
    for row, start, n in zip(matrix, offset, volume.hu.shape, strict=True):
        at = sum((step * place).astype(np.float32) for step, place in zip(row, places, strict=True)) + start
        outside.append((at < -0.5) | (at > n - 0.5))
    beside = outside[1] | outside[2]
    cut = outside[0] | (beside & (hu > GAS_BELOW_HU))
    hu[beside] = AIR_HU
    hu[cut] = NOT_SCANNED_HU
    return Volume(hu, volume.spacing, volume.centre)


def tilt_degrees(volume: Volume) -> float:
    """The largest angle in degrees between an axis of the volume and the nearest patient axis."""
    if volume.direction is None:
        return 0.0
    along = np.clip((STRAIGHT * volume.direction).sum(axis=0), -1.0, 1.0)
    return float(np.rad2deg(np.arccos(along.min())))


class _Slice:
    """HU and geometry of one slice."""

    def __init__(self, hu: np.ndarray, position, orientation, spacing):
        self.hu, self.position = hu, np.array(position, dtype=float)
        self.across, self.down = np.array(orientation[:3], dtype=float), np.array(orientation[3:], dtype=float)
        self.normal, self.spacing = normal_of(orientation), [float(v) for v in spacing]
        self.height = float(self.position @ self.normal)


def _slices(series: CtSeries, name: str) -> Iterator[_Slice]:
    frames: dict[str, set[int]] = {}
    for one in series.slices:
        frames.setdefault(one.path, set()).add(one.frame)
    for path, wanted in frames.items():
        try:
            ds = read_dicom(path)
            size = [int(ds.get(key) or 1) for key in ("NumberOfFrames", "Rows", "Columns")]
            expect_voxels([len(frames), *size], name)
            if "PixelData" not in ds:
                raise UserError(f"{name}: a slice has a header but no pixel data; export the whole series again")
            stored = stored_values(ds, path, name)
            if stored.ndim != (3 if is_multiframe(ds) and size[0] > 1 else 2):
                found = f"{name}: a slice of shape {list(stored.shape)} where a CT slice is one grey image"
                raise UserError(f"{found}; leave out images in colour and of several frames")
            if is_multiframe(ds):
                yield from _frames(ds, stored, wanted, name)
            else:
                yield _Slice(
                    _rescaled(ds, stored, ds, name),
                    ds.ImagePositionPatient,
                    ds.ImageOrientationPatient,
                    ds.PixelSpacing,
                )
        except (*HEADER_ERRORS, RuntimeError) as error:
            raise UserError(
                f"{name}: a slice of the DICOM series is damaged or of a kind that cannot be decoded "
                f"({type(error).__name__}); copy or export it again"
            ) from error


def _frames(ds: pydicom.Dataset, stored: np.ndarray, wanted: set[int], name: str) -> Iterator[_Slice]:
    shared = (ds.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()])[0]
    stored = stored if stored.ndim == 3 else stored[None]
    for i, frame in enumerate(ds.PerFrameFunctionalGroupsSequence):
        if i in wanted:
            yield _Slice(
                _rescaled(ds, stored[i], group_item(frame, shared, "PixelValueTransformationSequence"), name),
                group_item(frame, shared, "PlanePositionSequence").ImagePositionPatient,
                group_item(frame, shared, "PlaneOrientationSequence").ImageOrientationPatient,
                group_item(frame, shared, "PixelMeasuresSequence").PixelSpacing,
            )


def _rescaled(
    ds: pydicom.Dataset, stored: np.ndarray, rescale: pydicom.Dataset, name: str
) -> Float[np.ndarray, "h w"]:
    """HU of a slice by the slope and intercept of `rescale`; padding becomes air."""
    slope, intercept = rescale.get("RescaleSlope"), rescale.get("RescaleIntercept")
    slope, intercept = float(1.0 if slope is None else slope), float(0.0 if intercept is None else intercept)
    if not slope > 0:
        raise UserError(f"{name}: Rescale Slope {slope:g} in a slice; correct the header or export the series again")
    hu = stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    if (padding := padding_range(ds)) is not None:
        hu[(stored >= padding[0]) & (stored <= padding[1])] = AIR_HU
    return hu


def _without_duplicates(slices: list[_Slice], name: str) -> list[_Slice]:
    kept: list[_Slice] = []
    for one in slices:
        if kept and one.height - kept[-1].height <= SAME_PLACE_MM:
            if one.hu.shape != kept[-1].hu.shape or not np.array_equal(one.hu, kept[-1].hu):
                raise UserError(
                    f"{name}: two different slices at one position; the series holds two reconstructions that no "
                    "header separates: export them as two series"
                )
            continue
        kept.append(one)
    return kept
