"""Files are found by content: the preparation, a folder of CTs and the readers agree whatever the endings."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pydicom
import pytest
from chest_files import save_nifti, thorax
from dicom_files import write_ct_series
from PIL import Image
from radiograph_files import film, save_radiograph

from common.files import ROOT
from dataset.io.ct import read_volume
from dataset.io.dicom_series import find_ct_series
from dataset.io.file_kind import kind_of
from dataset.io.xray import find_xrays, read_xray_image
from dataset.preparation.plan import find_all
from dataset.preparation.radiographs import find_radiographs
from dataset.sources.folder_scan import discover

HU = thorax(size=(6, 8, 10))


@pytest.mark.parametrize("ending", ["", ".dcm", ".IMA", ".001", ".1.2.840.7", ".png", ".nii", ".txt"])
@pytest.mark.parametrize("preamble", [True, False])
def test_slices_of_any_ending_are_one_ct_for_all(tmp_path, ending, preamble):
    for path in write_ct_series(tmp_path / "scan", HU).iterdir():
        if not preamble:
            path.write_bytes(path.read_bytes()[132:])
        path.rename(path.with_suffix("").with_name(f"{path.stem}{ending}"))
    assert [len(one.slices) for one in find_ct_series(tmp_path)] == [len(HU)]
    assert len(discover(tmp_path)) == 1 and np.abs(read_volume(tmp_path / "scan").hu - HU).max() <= 1


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.img", "a", "a.gz"])
@pytest.mark.parametrize("packed", [True, False])
def test_nifti_of_any_ending(tmp_path, name, packed):
    made = save_nifti(tmp_path / ("made.nii.gz" if packed else "made.nii"), HU)
    made.rename(tmp_path / name)
    series, _ = find_all(tmp_path, [], None, False)
    assert len(series) == len(discover(tmp_path)) == 1
    assert np.array_equal(read_volume(tmp_path / name).hu, HU)


@pytest.mark.parametrize("name", ["film.dcm", "film", "1.2.840.9", "film.png", "film.npy"])
def test_x_rays_of_any_ending(tmp_path, name):
    path = save_radiograph(tmp_path / name, film())
    assert find_xrays(tmp_path) == [path] and len(find_radiographs(tmp_path)) == 1
    expected = read_xray_image(save_radiograph(tmp_path / "b" / "film.dcm", film())).image
    assert np.array_equal(read_xray_image(path).image, expected)


@pytest.mark.parametrize("name", ["picture.dcm", "picture.nii", "picture.npy", "picture"])
def test_a_picture_of_a_wrong_ending_is_read(tmp_path, name):
    Image.fromarray((film() >> 4).astype(np.uint8)).save(tmp_path / name, "PNG")
    assert np.array_equal(read_xray_image(tmp_path / name).image, film() >> 4)


def test_kinds_of_other_files(tmp_path):
    for content in (b"", b"MZ", bytes(400), b"id,patient\n" * 40, b"\x1f\x8b broken"):
        (tmp_path / "a").write_bytes(content)
        assert kind_of(tmp_path / "a") == ""
    assert kind_of(tmp_path) == "" and kind_of(tmp_path / "missing") == ""
    ds = pydicom.dcmread(save_radiograph(tmp_path / "film.dcm", film()))
    assert kind_of(tmp_path / "film.dcm") == "dicom" and ds.Modality == "DX"


@pytest.mark.slow
def test_closed_files_and_folders_are_counted_and_do_not_end_the_rest(tmp_path):
    drop = ["capsh", "--drop=cap_dac_override,cap_dac_read_search", "--", "-c"] if os.geteuid() == 0 else ["sh", "-c"]
    if shutil.which(drop[0]) is None:
        pytest.skip("needs capsh where the tests run as root")
    for name in "abc":
        write_ct_series(tmp_path / "src" / name, HU, patient=name)
    next((tmp_path / "src" / "b").iterdir()).chmod(0)
    (tmp_path / "src" / "c").chmod(0)
    code = (
        "from dataset.sources.folder_scan import discover; import logging, sys; logging.basicConfig(); "
        "print(list(discover(sys.argv[1])['ct']))"
    )
    command = f'cd "{ROOT}" && "{sys.executable}" -c "{code}" "{tmp_path / "src"}"'
    done = subprocess.run([*drop, command], capture_output=True, text=True)
    (tmp_path / "src" / "c").chmod(0o700)
    assert "1 files and 1 folders may not be read" in done.stderr and done.stdout.strip() == "['a', 'b']", done.stderr


def test_masks_beside_a_dicom_series_are_left_out(tmp_path):
    write_ct_series(tmp_path / "P1" / "ct", HU)
    (tmp_path / "P1" / "masks").mkdir()
    save_nifti(tmp_path / "P1" / "masks" / "lung.nii.gz", HU)
    series, _ = find_all(tmp_path, [], None, False)
    assert [len(one.slices) for one in series] == [len(HU)]


@pytest.mark.parametrize("names", [("ct", "spacing"), ("spacing", "ct")])
def test_an_archive_is_a_ct_in_any_order_of_its_arrays(tmp_path, names):
    arrays = {"ct": HU, "spacing": np.array([10.0, 10.0, 10.0])}
    np.savez(tmp_path / "p1.npz", **{name: arrays[name] for name in names})
    np.savez(tmp_path / "other.npz", spacing=arrays["spacing"])
    (tmp_path / "broken.npz").write_bytes(b"PK\3\4" + b"ct.npy" * 20)
    assert list(discover(tmp_path)["ct"]) == ["p1.npz"]
    volume = read_volume(tmp_path / "p1.npz")
    assert np.array_equal(np.sort(volume.hu, axis=None), np.sort(HU, axis=None)) and volume.spacing == (10.0,) * 3
