"""Volumes of any file are read in one orientation with HU and affine, and written so that other readers agree."""

import gzip
import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from chest_files import CENTRE, SPACING, save_nifti, thorax
from dicom_files import write_ct_series

from common.errors import UserError
from dataset.imaging.volume import Volume
from dataset.io.ct import read_volume
from dataset.io.nifti import SYNTHETIC, write_nifti


@pytest.fixture(scope="module")
def hu():
    return thorax()


AXCODES = ["".join(p) for q in itertools.permutations(["LR", "PA", "SI"]) for p in itertools.product(*q)]


@pytest.mark.parametrize("axcodes", AXCODES[::5])
def test_every_orientation_gives_the_same_volume(tmp_path, hu, axcodes):
    volume = read_volume(save_nifti(tmp_path / "a.nii.gz", hu, axcodes=axcodes))
    np.testing.assert_array_equal(volume.hu, hu)
    np.testing.assert_allclose(volume.spacing, SPACING, atol=1e-5)
    np.testing.assert_allclose(volume.centre, CENTRE, atol=1e-3)
    assert volume.hu.dtype == np.float32 and volume.hu.flags.c_contiguous


def test_a_mirrored_volume_is_detected(tmp_path, hu):
    mirrored = read_volume(save_nifti(tmp_path / "a.nii", hu[:, :, ::-1]))
    assert np.abs(mirrored.hu - hu).max() > 500


def test_axes_against_an_independent_reader(tmp_path, hu):
    path = save_nifti(tmp_path / "a.nii.gz", hu, axcodes="RAS")
    image = sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS")
    np.testing.assert_array_equal(read_volume(path).hu, sitk.GetArrayFromImage(image))


@pytest.mark.parametrize("angle", [8.0, -20.0])
def test_an_oblique_volume_is_reoriented_to_the_nearest_axes_and_keeps_its_spacing(tmp_path, hu, angle):
    c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    rotation = np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    affine = rotation @ np.diag([-SPACING[2], -SPACING[1], SPACING[0], 1.0])
    volume = read_volume(save_nifti(tmp_path / "a.nii", hu, affine=affine, axcodes="LPS"))
    np.testing.assert_array_equal(volume.hu, hu)
    np.testing.assert_allclose(volume.spacing, SPACING, atol=1e-4)


@pytest.mark.parametrize("feet_first", [False, True])
def test_dicom_and_nifti_of_one_scan_agree(tmp_path, hu, feet_first):
    volume = read_volume(write_ct_series(tmp_path / "series", hu, feet_first=feet_first))
    np.testing.assert_allclose(volume.hu, hu, atol=1.0)
    np.testing.assert_allclose(volume.spacing, SPACING, atol=1e-3)
    np.testing.assert_allclose(volume.centre, CENTRE, atol=1e-3)


def test_written_volume_round_trips_with_affine_and_hu(tmp_path, hu):
    write_nifti(tmp_path / "deep" / "out.nii.gz", hu + 0.4, SPACING, CENTRE)
    volume = read_volume(tmp_path / "deep" / "out.nii.gz")
    assert np.abs(volume.hu - hu).max() <= 1.0
    np.testing.assert_allclose(volume.spacing, SPACING, atol=1e-5)
    np.testing.assert_allclose(volume.centre, CENTRE, atol=1e-3)
    image = nib.load(tmp_path / "deep" / "out.nii.gz")
    assert image.get_data_dtype() == np.int16 and nib.aff2axcodes(image.affine) == ("L", "P", "S")
    assert image.header["descrip"].item().decode() == SYNTHETIC
    other = sitk.DICOMOrient(sitk.ReadImage(str(tmp_path / "deep" / "out.nii.gz")), "LPS")
    np.testing.assert_allclose(other.GetSpacing()[::-1], SPACING, atol=1e-5)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_files_are_the_same_each_time_and_open_in_other_readers(tmp_path, hu, name):
    for folder in ("one", "two"):
        write_nifti(tmp_path / folder / name, hu, SPACING)
    content = (tmp_path / "one" / name).read_bytes()
    assert content == (tmp_path / "two" / name).read_bytes()
    assert gzip.decompress(content) if name.endswith(".gz") else content[344:348] == b"n+1\0"
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "one" / name))), np.rint(hu))


def test_nan_is_not_written(tmp_path, hu):
    with pytest.raises(UserError, match="out.nii.gz: 1 voxels are NaN"):
        write_nifti(tmp_path / "out.nii.gz", np.where(np.arange(hu.size).reshape(hu.shape) == 5, np.nan, hu), SPACING)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, hu, monkeypatch):
    write_nifti(tmp_path / "out.nii.gz", hu, SPACING)
    before = (tmp_path / "out.nii.gz").read_bytes()

    def full_disk(path, content):
        path.write_text("half")
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_nifti(tmp_path / "out.nii.gz", hu * 0, SPACING)
    assert (tmp_path / "out.nii.gz").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["out.nii.gz"]


def test_extent_is_edge_to_edge():
    assert Volume(np.zeros((2, 4, 5)), (3.0, 2.0, 1.0)).extent == (6.0, 8.0, 5.0)


def broken_truncated(path, hu):
    save_nifti(path, hu)
    path.write_bytes(path.read_bytes()[:-2000])


def broken_short(path, hu):
    save_nifti(path, hu)
    data = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(data[:-1000]))


def broken_bytes(path, hu):
    path.write_bytes(b"this is no image" * 40)


def broken_flat(path, hu):
    nib.save(nib.Nifti1Image(hu[0], np.eye(4)), path)


def broken_series(path, hu):
    nib.save(nib.Nifti1Image(np.stack([hu, hu], axis=-1), np.eye(4)), path)


def broken_nan(path, hu):
    holed = hu.astype(np.float32)
    holed[3, 3, 3] = np.nan
    save_nifti(path, holed, dtype=np.float32)


def broken_spacing(path, hu):
    save_nifti(path, hu)
    data = bytearray(gzip.decompress(path.read_bytes()))
    data[80:84] = np.float32(0.0).tobytes()  # pixdim[1]
    path.write_bytes(gzip.compress(bytes(data)))


def broken_affine(path, hu):
    save_nifti(path, hu)
    data = bytearray(gzip.decompress(path.read_bytes()))
    for row in range(3):  # the column of the first axis in srow_x, srow_y, srow_z
        data[280 + 16 * row : 284 + 16 * row] = np.float32(0.0).tobytes()
    path.write_bytes(gzip.compress(bytes(data)))


def broken_huge_spacing(path, hu):
    save_nifti(path, hu, spacing=(6000.0, 5000.0, 4500.0))


def broken_grey(path, hu):
    save_nifti(path, np.clip((hu + 1000.0) / 8.0, 0, 255))


def broken_air(path, hu):
    save_nifti(path, hu * 0.02 - 1000)


def broken_constant(path, hu):
    save_nifti(path, hu * 0 + 40)


def broken_no_air(path, hu):
    save_nifti(path, hu + 1024)


BROKEN = {
    broken_truncated: "damaged",
    broken_short: "damaged",
    broken_bytes: "damaged or not NIfTI",
    broken_flat: "2 dimensions",
    broken_series: "4 dimensions",
    broken_nan: "NaN",
    broken_spacing: "spacing|length 0",
    broken_affine: "spacing|length 0",
    broken_huge_spacing: "spacing",
    broken_grey: "no HU in range.*8-bit",
    broken_air: "no HU in range.*all air",
    broken_constant: "every voxel is 40",
    broken_no_air: "no HU in range.*subtract 1024",
}


@pytest.mark.parametrize("breaker", BROKEN, ids=lambda f: f.__name__)
def test_bad_volumes_give_one_line_with_file_and_remedy(tmp_path, hu, breaker):
    path = tmp_path / "bad.nii.gz"
    breaker(path, hu)
    with pytest.raises(UserError, match=BROKEN[breaker]) as caught:
        read_volume(path)
    line = str(caught.value)
    assert str(path) in line and "\n" not in line and ("; " in line or "(" in line)


def test_missing_file_empty_folder_and_two_series(tmp_path, hu):
    with pytest.raises(UserError, match="no such file"):
        read_volume(tmp_path / "none.nii.gz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no DICOM series"):
        read_volume(tmp_path / "empty")
    write_ct_series(tmp_path / "two", hu, series_uid="1.2.3")
    for path in (tmp_path / "two").iterdir():
        path.rename(path.with_name("a" + path.name))
    write_ct_series(tmp_path / "two", hu + 1, series_uid="1.2.4")
    with pytest.raises(UserError, match="2 DICOM series"):
        read_volume(tmp_path / "two")
    np.testing.assert_allclose(read_volume(f"{tmp_path / 'two'}#1.2.4").hu, hu + 1)


def test_the_error_names_a_damaged_dicom_file(tmp_path, hu):
    folder = write_ct_series(tmp_path / "series", hu)
    victim = sorted(folder.iterdir())[5]
    victim.write_bytes(victim.read_bytes()[:-300])
    with pytest.raises(UserError, match="series"):
        read_volume(folder)
