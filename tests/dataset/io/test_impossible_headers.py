"""Headers that cannot be true are corrected where the file leaves no doubt, or refused in a line with the cause."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from chest_files import CENTRE, SPACING, save_nifti, thorax
from dicom_files import write_ct_series
from radiograph_files import film, save_radiograph

from common.errors import UserError
from dataset.imaging.geometry import nifti_affine
from dataset.io.ct import read_volume
from dataset.io.dicom_series import find_ct_series
from dataset.io.dicom_volume import read_series
from dataset.io.xray import read_xray

HU = thorax()


def patched(path: Path, *changes: tuple[int, bytes], insert: tuple[int, bytes] | None = None) -> Path:
    """The file with other bytes in its header."""
    data = bytearray(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())
    for at, value in changes:
        data[at : at + len(value)] = value
    if insert is not None:
        data[insert[0] : insert[0]] = insert[1]
    path.write_bytes(gzip.compress(bytes(data)) if path.suffix == ".gz" else bytes(data))
    return path


def float32(value):
    return np.float32(value).tobytes()


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("changes", "insert", "message"),
    [
        ([(112, float32(1)), (116, float32(np.nan))], None, "invalid intercept"),
        ([(70, np.int16(0).tobytes())], None, "data code 0"),
        ([(70, np.int16(9999).tobytes())], None, "data code 9999"),
        ([(70, np.int16(2).tobytes()), (72, np.int16(8).tobytes())], None, "longer than its header"),
        ([(108, float32(200))], None, "offset 200"),
        ([(108, float32(400))], None, "damaged"),
        ([], (352, b"\1" * 64), "longer than its header"),
        ([(46, np.int16(HU.shape[0] - 3).tobytes())], None, "longer than its header"),
        ([(112, float32(-1))], None, "scl_slope -1"),
        ([(112, float32(1e5))], None, "no HU in range"),
        ([(112, float32(0.01))], None, "no HU in range"),
        ([(80, float32(2.0))], None, "two voxel spacings"),
    ],
)
def test_nifti(tmp_path, ending, changes, insert, message):
    path = patched(save_nifti(tmp_path / f"a{ending}", HU), *changes, insert=insert)
    with pytest.raises(UserError, match=message) as caught:
        read_volume(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_zeros_after_the_voxels_are_no_damage(tmp_path, ending):
    path = save_nifti(tmp_path / f"a{ending}", HU)
    assert np.array_equal(read_volume(patched(path, insert=(10**9, bytes(512)))).hu, HU)


@pytest.mark.parametrize(("unit", "scale"), [("mm", 1.0), ("micron", 1000.0), ("meter", 0.001), ("unknown", 1.0)])
def test_the_unit_of_length_counts(tmp_path, unit, scale):
    affine = np.diag([scale, scale, scale, 1.0]) @ nifti_affine(SPACING, CENTRE, HU.shape)
    image = nib.Nifti1Image(HU.transpose(2, 1, 0), affine)
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "a.nii.gz")
    np.testing.assert_allclose(read_volume(tmp_path / "a.nii.gz").spacing, SPACING, rtol=1e-5)


def test_a_scan_of_more_than_3_m_is_refused(tmp_path):
    with pytest.raises(UserError, match="correct its voxel spacing"):
        read_volume(save_nifti(tmp_path / "a.nii", np.repeat(HU, 4, axis=0), spacing=(40.0, 5.0, 4.5)))


@pytest.mark.parametrize("axes", [(0, 1), (1, 2), (2, 0)])
@pytest.mark.parametrize("degrees", [0.02, 0.3, 2.0, 12.0])
def test_shear_is_refused_and_rounding_is_not(tmp_path, axes, degrees):
    affine = nifti_affine(SPACING, CENTRE, HU.shape)
    affine[axes[0], axes[1]] = np.tan(np.deg2rad(degrees)) * np.linalg.norm(affine[:3, axes[1]])
    path = save_nifti(tmp_path / "a.nii.gz", HU, affine=affine)
    if degrees < 0.5:
        np.testing.assert_allclose(read_volume(path).spacing, SPACING, rtol=1e-4)
    else:
        with pytest.raises(UserError, match=rf"sheared by {degrees:.1f} degrees"):
            read_volume(path)


@pytest.mark.parametrize(("axes", "readable"), [((1,), True), ((1, 1), True), ((2,), False)])
def test_axes_of_length_one_are_no_dimensions(tmp_path, axes, readable):
    stored = np.broadcast_to(HU.transpose(2, 1, 0).reshape(*HU.shape[::-1], *(1 for _ in axes)), HU.shape[::-1] + axes)
    nib.save(
        nib.Nifti1Image(np.ascontiguousarray(stored), nifti_affine(SPACING, CENTRE, HU.shape)), tmp_path / "a.nii"
    )
    if readable:
        assert np.array_equal(read_volume(tmp_path / "a.nii").hu, HU)
    else:
        with pytest.raises(UserError, match="4 dimensions"):
            read_volume(tmp_path / "a.nii")


def with_padding(hu, value):
    """A circle of field of view, as some scanners have it."""
    y, x = np.mgrid[-1 : 1 : hu.shape[1] * 1j, -1 : 1 : hu.shape[2] * 1j]
    return np.where(x**2 + y**2 > 1, value, hu)


SCALES = {
    "twice": (lambda hu: hu - 1024, "applied twice; add 1024"),
    "never": (lambda hu: hu + 1024, "without their rescale intercept; subtract 1024"),
    "wide": (lambda hu: hu + 8192, "without their rescale intercept; subtract 8192"),
    "never, padded": (lambda hu: with_padding(hu + 1024, -2000), "subtract 1024"),
    "unsigned": (lambda hu: hu.astype(float) + 32768, "subtract 32768"),
}


@pytest.mark.parametrize("scale", SCALES)
def test_a_wrong_rescale_is_told_by_the_peaks_of_tissue_and_air(tmp_path, scale):
    change, message = SCALES[scale]
    with pytest.raises(UserError, match=message):
        read_volume(save_nifti(tmp_path / "a.nii", change(HU.astype(int)), dtype=np.int32))


def test_dicom_rescaled_twice_and_never(tmp_path):
    with pytest.raises(UserError, match="applied twice"):
        read_volume(write_ct_series(tmp_path / "twice", HU, extra={"RescaleIntercept": -2048}))
    with pytest.raises(UserError, match="subtract 8192"):
        read_volume(
            write_ct_series(tmp_path / "never", HU, intercept=-8192, extra={"RescaleSlope": 1, "RescaleIntercept": 0})
        )
    for slope in (0, -1):
        with pytest.raises(UserError, match=f"Rescale Slope {slope}"):
            read_volume(write_ct_series(tmp_path / f"slope{slope}", HU, extra={"RescaleSlope": slope}))


@pytest.mark.parametrize("padding", [-1024, -2000, -2048, -3024])
def test_padding_is_no_wrong_rescale(tmp_path, padding):
    read_volume(save_nifti(tmp_path / "a.nii.gz", with_padding(HU, padding)))


def bits(folder, stored_of, **tags):
    for path in sorted(folder.iterdir()):
        ds = pydicom.dcmread(path)
        stored = np.frombuffer(ds.PixelData, np.int16).reshape(ds.Rows, ds.Columns)
        ds.PixelRepresentation, ds.PixelData = 0, stored_of(stored.astype(np.uint16)).tobytes()
        for name, value in tags.items():
            setattr(ds, name, value)
        pydicom.dcmwrite(path, ds)
    return folder


def overlaid(stored):
    """With a graphic in bit 12."""
    stored = stored.copy()
    stored[2:-2:3, 3:6] |= 1 << 12
    return stored


BITS = {
    "overlay above the image": (overlaid, {"BitsStored": 12, "HighBit": 11}),
    "image in the upper bits": (lambda s: s << 4, {"BitsStored": 12, "HighBit": 15}),
    "high bit is wrong": (lambda s: s, {"BitsStored": 12, "HighBit": 15}),
    "too few bits stored": (lambda s: s, {"BitsStored": 9, "HighBit": 8}),
    "more bits stored than allocated": (lambda s: s, {"BitsStored": 24, "HighBit": 23}),
    "high bit below bits stored": (lambda s: s, {"BitsStored": 12, "HighBit": 7}),
}


@pytest.mark.parametrize("case", BITS)
def test_bits_of_ct_and_x_ray(tmp_path, case):
    change, tags = BITS[case]
    folder = bits(write_ct_series(tmp_path / "ct", HU), change, **tags)
    assert np.abs(read_series(find_ct_series(folder)[0]).hu - np.maximum(HU, -1024)).max() <= 1
    expected = read_xray(save_radiograph(tmp_path / "plain.dcm", film(), bits=16))
    shown = read_xray(save_radiograph(tmp_path / "a.dcm", change(film()), bits=16, **tags))
    known = ~expected.isnan()  # without the padding to a square
    assert (shown.isnan() != known).all() and np.corrcoef(expected[known], shown[known])[0, 1] > 0.9999
