"""MetaImage, NRRD, RAD-ChestCT's and X2CT-GAN's arrays give the same volume as NIfTI; other content is refused."""

import zipfile

import h5py
import numpy as np
import pytest
import SimpleITK as sitk
from chest_files import CENTRE, SPACING, save_nifti, save_x2ct, thorax

from common.errors import UserError
from dataset.io.ct import read_volume
from dataset.io.volume_files import data_files, is_volume_file, read_npz, read_x2ct_xray
from dataset.io.xray import read_xray

ITK = (".mha", ".mhd", ".nrrd")


@pytest.fixture(scope="module")
def hu():
    return thorax()


def save_itk(path, hu, axcodes="LPS", compress=False):
    image = sitk.DICOMOrient(sitk.ReadImage(str(save_nifti(path.with_suffix(".nii"), hu))), axcodes)
    path.with_suffix(".nii").unlink()
    sitk.WriteImage(image, str(path), compress)
    return path


@pytest.mark.parametrize("ending", ITK)
@pytest.mark.parametrize("axcodes", ["LPS", "RAS", "SLA"])
@pytest.mark.parametrize("compress", [False, True])
def test_every_orientation_gives_the_same_volume(tmp_path, hu, ending, axcodes, compress):
    volume = read_volume(save_itk(tmp_path / f"a{ending}", hu, axcodes, compress))
    np.testing.assert_array_equal(volume.hu, hu)
    np.testing.assert_allclose(volume.spacing, SPACING, atol=1e-4)
    np.testing.assert_allclose(volume.centre, CENTRE, atol=1e-3)


@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
def test_the_content_decides_not_the_ending(tmp_path, hu, ending):
    path = save_itk(tmp_path / f"a{ending}", hu).rename(tmp_path / "scan")
    assert is_volume_file(path)
    np.testing.assert_array_equal(read_volume(path).hu, hu)


def test_a_fourth_axis_of_length_one_is_dropped(tmp_path, hu):
    one = sitk.ReadImage(str(save_itk(tmp_path / "a.mha", hu)))
    sitk.WriteImage(sitk.JoinSeries([one]), str(tmp_path / "b.mha"))
    np.testing.assert_array_equal(read_volume(tmp_path / "b.mha").hu, hu)
    sitk.WriteImage(sitk.JoinSeries([one, one]), str(tmp_path / "c.mha"))
    sitk.WriteImage(sitk.Compose([one, one]), str(tmp_path / "d.nrrd"))
    for name in ("c.mha", "d.nrrd"):
        with pytest.raises(UserError, match="one value"):
            read_volume(tmp_path / name)


@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
def test_a_file_that_is_cut_off_is_refused(tmp_path, hu, ending):
    path = save_itk(tmp_path / f"a{ending}", hu)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(UserError, match="damaged"):
        read_volume(path)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../b.raw", "outside of its folder"),
        ("/etc/hostname", "outside"),
        ("c.raw", "is missing"),
        ("LIST", "no single data file"),
    ],
)
def test_voxels_are_read_from_the_folder_alone(tmp_path, hu, name, reason):
    path = save_itk(tmp_path / "in" / "a.mhd", hu) if (tmp_path / "in").mkdir() is None else None
    (tmp_path / "in" / "a.raw").rename(tmp_path / "b.raw")
    path.write_text(path.read_text().replace("a.raw", name))
    with pytest.raises(UserError, match=reason):
        read_volume(path)


@pytest.mark.parametrize(
    ("header", "data"), [("a.mhd", "a.raw"), ("a.mhd", "a.zraw"), ("a.nhdr", "a.raw"), ("a.nhdr", "a.raw.gz")]
)
def test_the_data_file_of_a_header(tmp_path, hu, header, data):
    path = save_itk(tmp_path / header, hu, compress=data.endswith(("zraw", "gz")))
    assert data_files(path) == [tmp_path / data] and (tmp_path / data).is_file()
    assert data_files(path.rename(tmp_path / "scan")) == [tmp_path / data]  # the content decides, not the ending
    (tmp_path / data).unlink()
    assert data_files(tmp_path / "scan") == []


@pytest.mark.parametrize("ending", [".mha", ".nrrd", ".nii"])
def test_a_file_with_its_voxels_has_no_data_file(tmp_path, hu, ending):
    path = save_nifti(tmp_path / "a.nii", hu[:4, :4, :4]) if ending == ".nii" else tmp_path / f"a{ending}"
    assert data_files(path if ending == ".nii" else save_itk(path, hu[:4, :4, :4])) == []


def test_a_header_that_claims_too_many_voxels_is_refused(tmp_path, hu):
    path = save_itk(tmp_path / "a.mha", hu)
    shape = " ".join(map(str, hu.shape[::-1])).encode()
    path.write_bytes(path.read_bytes().replace(b"DimSize = " + shape, b"DimSize = 20000 20000 20000"))
    with pytest.raises(UserError, match="20000x20000x20000 voxels"):
        read_volume(path)


def test_rad_chestct(tmp_path, hu):
    """Slices run from superior to inferior, voxels have 0.8 mm."""
    clipped = np.clip(hu, -1000, 1000).astype(np.int16)
    np.savez_compressed(tmp_path / "trn00001.npz", ct=clipped[::-1])
    volume = read_volume(tmp_path / "trn00001.npz")
    np.testing.assert_array_equal(volume.hu, clipped)
    np.testing.assert_allclose(volume.spacing, 0.8)
    np.savez(tmp_path / "b.npz", ct=clipped[::-1], spacing=np.array([2.0, 1.0, 1.5]))
    np.testing.assert_allclose(read_volume(tmp_path / "b.npz").spacing, (2.0, 1.0, 1.5))


def test_x2ct(tmp_path, hu):
    """Voxels cover `ori_size · spacing` mm; X-rays are read by their names."""
    volume = read_volume(save_x2ct(tmp_path / "a" / "ct_xray_data.h5", hu))
    np.testing.assert_array_equal(volume.hu, hu)
    np.testing.assert_allclose(volume.extent, 320.0)
    frontal, lateral = (read_xray(f"{tmp_path}/a/ct_xray_data.h5#xray{i}", (64, 64)) for i in (1, 2))
    assert frontal[0, -1] == 1.0 == lateral[0, 0] and (frontal == lateral.flip(1)).all()


def test_arrays_of_other_content_are_refused(tmp_path, hu):
    refused = {
        "no array ct": {"volume": hu},
        "3-dimensional numbers": {"ct": hu[0]},
        "spacing": {"ct": hu, "spacing": [0.0]},
    }
    for reason, arrays in refused.items():
        np.savez(tmp_path / "a.npz", **arrays)
        with pytest.raises(UserError, match=reason):
            read_npz(tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive, archive.open("ct.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, {"descr": "<i2", "fortran_order": False, "shape": (50000,) * 3})
    with pytest.raises(UserError, match="50000x50000x50000"):
        read_volume(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", ct=np.array([{}], dtype=object))
    with pytest.raises(UserError):
        read_volume(tmp_path / "c.npz")
    with pytest.raises(UserError, match="add 1024"):
        read_volume(save_x2ct(tmp_path / "d.h5", hu, ct=hu[::-1]))
    with pytest.raises(UserError, match="no xray2"):
        read_x2ct_xray(save_x2ct(tmp_path / "e.h5", hu, xray2=None), "xray2")


def test_an_array_in_another_file_is_not_followed(tmp_path, hu):
    other = save_x2ct(tmp_path / "secret.h5", hu)
    links = {"external": h5py.ExternalLink(str(other), "ct"), "soft": h5py.SoftLink("/spacing")}
    for name, link in links.items():
        with pytest.raises(UserError, match="a link or no array"):
            read_volume(save_x2ct(tmp_path / f"{name}.h5", hu, ct=link))
    layout = h5py.VirtualLayout(hu.shape, "f4")
    layout[:] = h5py.VirtualSource(str(other), "ct", hu.shape)
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        file.create_virtual_dataset("ct", layout)
        file.create_dataset("raw", (4, 4, 4), "u1", external=[("/etc/hostname", 0, 64)])
    with pytest.raises(UserError, match="a link or no array"):
        read_volume(tmp_path / "virtual.h5")


@pytest.mark.parametrize("axes", [(0,), (0, 1), (3,), (0, 4)])
def test_axes_of_length_one_of_an_array_are_dropped(tmp_path, hu, axes):
    single = np.expand_dims(hu.clip(-1000, 1000), axes)
    np.savez(tmp_path / "a.npz", ct=single)
    save_x2ct(tmp_path / "b.h5", hu, ct=np.expand_dims(np.maximum(hu, -1024) + 1024, axes))
    for name in ("a.npz", "b.h5"):
        assert read_volume(tmp_path / name).hu.shape == hu.shape
