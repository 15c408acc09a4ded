"""A stack has HU within 1 and its affine within 1e-3 in any syntax and pose; gaps are an error."""

import nibabel as nib
import numpy as np
import pydicom
import pytest
from chest_files import thorax
from dicom_files import CENTRE, SPACING, nifti_affine_of, rotation_about, write_ct_series, write_enhanced_ct

from common.errors import UserError
from dataset.imaging.volume import Volume
from dataset.io.ct import read_volume
from dataset.io.dicom_series import find_ct_series
from dataset.io.dicom_volume import read_series, straighten, tilt_degrees
from dataset.io.nifti import write_nifti

HU = thorax()
CORNERS = np.zeros(HU.shape[1:], dtype=bool)
CORNERS[:4, :4] = CORNERS[-4:, -4:] = True


def read(folder, hu=HU, **options):
    return read_series(find_ct_series(write_ct_series(folder, hu, **options))[0], "the case")


@pytest.mark.parametrize("rotation", [None, ("x", 12.0), ("z", -25.0), ("y", 7.0)])
@pytest.mark.parametrize("feet_first", [False, True])
def test_hu_and_affine_of_straight_oblique_and_feet_first_series(tmp_path, rotation, feet_first):
    rotation = None if rotation is None else rotation_about(*rotation)
    volume = read(tmp_path, rotation=rotation, feet_first=feet_first)
    assert np.abs(volume.hu - HU).max() <= 1.0
    np.testing.assert_allclose(volume.affine, nifti_affine_of(HU.shape, rotation=rotation), atol=1e-3)
    assert (volume.direction is None) == (rotation is None)


def test_coronal_slices_give_the_same_volume(tmp_path):
    """The scan is written as coronal images: array axes (depth, rows, columns) are posterior, inferior, left."""
    turned = np.ascontiguousarray(HU.transpose(1, 0, 2)[:, ::-1])  # (back, down, left)
    down_is_inferior = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]], dtype=float)  # columns: x, rows direction, stack
    volume = read(tmp_path, turned, spacing=(SPACING[1], SPACING[0], SPACING[2]), rotation=down_is_inferior)
    assert np.abs(volume.hu - HU).max() <= 1.0
    np.testing.assert_allclose(volume.affine, nifti_affine_of(HU.shape), atol=1e-3)


@pytest.mark.parametrize("syntax", ["implicit", "rle", "jpeg2000", "jpeg"])
def test_transfer_syntaxes(tmp_path, syntax):
    assert np.abs(read(tmp_path, syntax=syntax).hu - HU).max() <= 1.0


def test_slope_and_intercept_of_each_slice(tmp_path):
    slopes = np.linspace(0.4, 1.0, len(HU))
    assert np.abs(read(tmp_path / "a", slopes=slopes).hu - HU).max() <= 1.0
    assert np.abs(read(tmp_path / "b", slopes=slopes, syntax="jpeg2000", intercept=-1000).hu - HU).max() <= 1.0


def test_padding_and_hu_below_air_become_air(tmp_path):
    deep = np.where(CORNERS, -3000, HU)
    for name, options in {"declared": {"padding": -2000, "padded": CORNERS}, "undeclared": {}}.items():
        volume = read(tmp_path / name, HU if options else deep, **options)
        assert (volume.hu[:, CORNERS] == -1024).all()
        assert np.abs(volume.hu - HU)[:, ~CORNERS].max() <= 1.0
    bright = read(tmp_path / "bright", padding=3000, padded=CORNERS)  # padding may be any number
    assert (bright.hu[:, CORNERS] == -1024).all()


def test_enhanced_multiframe(tmp_path):
    path = write_enhanced_ct(
        tmp_path / "e.dcm", HU, slopes=np.linspace(0.5, 1, len(HU)), rotation=rotation_about("x", 9)
    )
    volume = read_series(find_ct_series(path.parent)[0])
    assert np.abs(volume.hu - HU).max() <= 1.0
    np.testing.assert_allclose(volume.affine, nifti_affine_of(HU.shape, rotation=rotation_about("x", 9)), atol=1e-3)


def test_a_copy_of_a_slice_counts_once_even_under_a_new_uid(tmp_path):
    write_ct_series(tmp_path, HU, series_uid="1.2.3", repeat=(4,))
    write_ct_series(tmp_path, HU[9:10], series_uid="1.2.3", prefix="again", centre=_at(9))
    assert np.abs(read_series(find_ct_series(tmp_path)[0]).hu - HU).max() <= 1.0


def test_two_different_slices_at_one_position_are_refused(tmp_path):
    write_ct_series(tmp_path, HU, series_uid="1.2.3")
    write_ct_series(tmp_path, HU[9:10] + 50, series_uid="1.2.3", prefix="other", centre=_at(9))
    with pytest.raises(UserError, match="two different slices at one position"):
        read_series(find_ct_series(tmp_path)[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"skip": (7,)}, "a slice is missing .* gap of 12 mm where slices are usually 6 mm"),
        ({"skip": (7, 8, 12)}, "3 slices are missing"),
        ({"without_pixels": (3,)}, "header but no pixel data"),
        ({"gantry_tilt": 15.0}, "gantry tilt.*15.0 degrees"),
    ],
)
def test_a_stack_with_holes_is_refused_by_name_and_remedy(tmp_path, options, message):
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path, **options)
    line = str(caught.value)
    assert line.startswith("the case: ") and "export" in line and str(tmp_path) not in line


def test_uneven_spacing_is_refused(tmp_path):
    write_ct_series(tmp_path, HU, series_uid="1.2.3", skip=range(15, 20))
    write_ct_series(tmp_path, HU[15:], series_uid="1.2.3", prefix="B", centre=_at(17.4))
    with pytest.raises(UserError, match="uneven spacing"):
        read_series(find_ct_series(tmp_path)[0])


def test_truncated_pixels_are_refused(tmp_path):
    victim = sorted(write_ct_series(tmp_path, HU).iterdir())[5]
    victim.write_bytes(victim.read_bytes()[:-300])
    with pytest.raises(UserError, match="damaged"):
        read_series(find_ct_series(tmp_path)[0])


def test_written_oblique_volume_has_its_affine_in_the_file(tmp_path):
    volume = read(tmp_path / "in", rotation=rotation_about("z", 20))
    write_nifti(tmp_path / "out.nii.gz", volume.hu, volume.spacing, volume.centre, "x", volume.direction)
    np.testing.assert_allclose(nib.load(tmp_path / "out.nii.gz").affine, volume.affine, atol=1e-3)
    again = read_volume(tmp_path / "out.nii.gz")
    np.testing.assert_allclose(again.affine, volume.affine, atol=1e-3)


def ball(direction, centre=CENTRE, spacing=(4.0, 3.0, 3.5), size=(30, 34, 32), place=(-20, -10, 15), radius=25):
    """A ball on tilted axes; by default 20 mm to the patient's left of the centre, 10 back, 15 up."""
    volume = Volume(np.zeros(size, dtype=np.float32), spacing, centre, direction)
    w, h, d = np.meshgrid(*[np.arange(n) for n in size[::-1]], indexing="ij")
    points = np.stack([w, h, d, np.ones_like(w)], axis=-1) @ volume.affine.T
    inside = np.linalg.norm(points[..., :3] - (np.array(centre) + place), axis=-1) < radius
    volume.hu = np.where(inside.transpose(2, 1, 0), 40.0, -1000.0).astype(np.float32)
    return volume


def test_straightening_leaves_things_where_they_are(tmp_path):
    rotation = np.diag([-1.0, -1.0, 1.0]) @ rotation_about("x", 15) @ rotation_about("z", 10)  # LPS x, y, z to RAS
    tilted = ball(rotation[:, [2, 1, 0]])
    assert 10 < tilt_degrees(tilted) < 20
    straight, expected = straighten(tilted), ball(None)
    assert straight.direction is None and straight.spacing == tilted.spacing
    shift = (np.array(straight.hu.shape) - expected.hu.shape) / 2.0  # same centre, larger box
    middle = np.argwhere(straight.hu > -480).mean(axis=0) - shift
    np.testing.assert_allclose(middle, np.argwhere(expected.hu > -480).mean(axis=0), atol=0.25)
    assert (straight.hu > -480).sum() == pytest.approx((expected.hu > -480).sum(), rel=0.05)


@pytest.mark.parametrize("axis", ["x", "y", "z"])
@pytest.mark.parametrize("place", [(0, 0, 40), (0, 22, -40), (-22, 0, 40), (20, -20, 0)])
def test_straightening_thick_slices_leaves_things_where_they_are(axis, place):
    rotation = np.diag([-1.0, -1.0, 1.0]) @ rotation_about(axis, 10)
    grid = {"spacing": (3.0, 0.7, 0.7), "size": (40, 100, 100), "place": place, "radius": 9}
    straight = straighten(ball(rotation[:, [2, 1, 0]], **grid))
    middle = np.argwhere(straight.hu > -480).mean(axis=0)
    found = straight.affine @ [*middle[::-1], 1.0]
    off = np.abs(found[:3] - (np.array(CENTRE) + place)) / straight.spacing[::-1]
    assert off.max() < 1, f"{off} voxels (W, H, D)"


def test_a_straight_volume_is_not_resampled():
    volume = ball(None)
    assert straighten(volume).hu is volume.hu


def _at(index):
    """Centre of a stack whose middle slice is number `index` of the whole."""
    return (CENTRE[0], CENTRE[1], CENTRE[2] + (index - (len(HU) - 1) / 2) * SPACING[0])


def test_real_series(real_data):
    found = {s.identity.patient.split(".")[-1]: s for s in find_ct_series(real_data / "dicom")}
    volume = read_series(found["Lung_Dx-A0002"])
    assert volume.hu.shape == (30, 512, 512) and volume.spacing == pytest.approx((8.0, 0.646484, 0.646484))
    assert volume.hu.min() == -1024  # the padding was -2000 and less


def test_a_ct_without_pixel_spacing_is_named(tmp_path):
    write_ct_series(tmp_path / "ct", thorax(size=(6, 8, 10)))
    for file in (tmp_path / "ct").iterdir():
        header = pydicom.dcmread(file)
        header.PixelSpacing = None
        header.save_as(file)
    with pytest.raises(UserError, match="no position, orientation or pixel spacing in the headers"):
        read_volume(tmp_path / "ct")


def test_a_slice_in_colour_is_refused(tmp_path):
    folder = write_ct_series(tmp_path, HU)
    (series,) = find_ct_series(folder)
    ds = pydicom.dcmread(series.files[3])
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.PixelData = bytes(3 * ds.Rows * ds.Columns)
    pydicom.dcmwrite(series.files[3], ds)
    with pytest.raises(UserError, match=r"^the case: a slice of shape \[24, 28, 3\]"):
        read_series(series, "the case")
    (again,) = find_ct_series(folder)
    assert len(again.slices) == len(HU) - 1 and again.left_out == "1 × colour image"
