"""Uploaded CTs: every format of the readers gives its volume under any name; hostile headers and zips are refused."""

import io
import struct
import zipfile

import numpy as np
import pytest
import SimpleITK as sitk
from chest_files import save_nifti, thorax
from dicom_files import write_ct_series

from common.errors import UserError
from dataset.io.ct import read_volume
from demo.uploads.accept import accept_upload
from demo.uploads.volume import FULL, MAX_DIRECTORY, MAX_FILES

HU = thorax(size=(8, 10, 12))
SPACING = (6.0, 5.0, 4.5)
MOST = 64 << 20


def itk(path, hu=HU, compress=False):
    image = sitk.GetImageFromArray(hu)
    image.SetSpacing(SPACING[::-1])
    sitk.WriteImage(image, str(path), compress)
    return path


def zipped(files, path):
    """A zip of `{name: bytes}`."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def series(folder):
    write_ct_series(folder, HU, SPACING)
    return {f"study/series/{file.name}": file.read_bytes() for file in sorted(folder.iterdir())}


def accepted(path, folder):
    place = folder / "place"
    place.mkdir(exist_ok=True)
    return accept_upload(path.rename(folder / "upload.bin"), place, MOST, volume=True)


@pytest.fixture
def uploads(tmp_path):
    """A file of each kind."""
    itk(tmp_path / "pair.mhd")
    pair = {f"export/{name}": (tmp_path / name).read_bytes() for name in ("pair.mhd", "pair.raw")}
    np.savez_compressed(tmp_path / "rad.npz", ct=HU[::-1])
    slices = series(tmp_path / "slices")
    extra = {"__MACOSX/._a.dcm": b"\0\5\26\7", ".DS_Store": b"x", "readme.txt": b"a CT"}
    return {
        "mha": itk(tmp_path / "a.mha"),
        "mha packed": itk(tmp_path / "b.mha", compress=True),
        "nrrd": itk(tmp_path / "a.nrrd"),
        "nrrd packed": itk(tmp_path / "b.nrrd", compress=True),
        "npz": tmp_path / "rad.npz",
        "mhd and raw": zipped(pair, tmp_path / "a.zip"),
        "DICOM": zipped(slices | extra, tmp_path / "b.zip"),
        "nifti in a zip": zipped(
            {"ct.nii.gz": save_nifti(tmp_path / "c.nii.gz", HU).read_bytes()}, tmp_path / "c.zip"
        ),
    }


def test_every_format_gives_its_volume(uploads, tmp_path):
    for number, (kind, path) in enumerate(uploads.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        volume = read_volume(accepted(path, folder))
        np.testing.assert_allclose(volume.hu, HU, atol=0.5, err_msg=kind)
        assert volume.spacing == pytest.approx((0.8,) * 3 if kind == "npz" else SPACING), kind


def header(kind, dims, rest=b""):
    text = {
        "mha": b"NDims = 3\nDimSize = %s\nElementType = MET_SHORT\nElementSpacing = 1 1 1\nElementDataFile = LOCAL\n",
        "mhd": b"NDims = 3\nDimSize = %s\nElementType = MET_SHORT\nElementDataFile = a.raw\n",
        "nrrd": b"NRRD0004\ntype: short\ndimension: 3\nsizes: %s\nencoding: raw\n\n",
        "nhdr": b"NRRD0004\ntype: short\ndimension: 3\nsizes: %s\nencoding: raw\ndata file: a.raw\n\n",
    }[kind]
    return text % dims + rest


def npz(dims, name="ct.npy"):
    content, whole = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": "<f4", "fortran_order": False, "shape": dims})
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr(name, content.getvalue())
    return whole.getvalue()


HOSTILE = ["mha", "nrrd", "two sizes", "npz", "mhd", "nhdr", "DICOM file", "text", "cut off", "zip of two",
           "zip of nothing", "zip of many", "zip of zeros", "zip of a huge header"]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(tmp_path, name, monkeypatch):
    huge = b"9000 9000 9000"
    data = {
        "mha": header("mha", huge),
        "nrrd": header("nrrd", huge),
        "two sizes": header("mha", b"4 4 4\nDimSize = " + huge),
        "npz": npz((9000, 9000, 9000)),
        "mhd": header("mhd", b"4 4 4"),
        "nhdr": header("nhdr", b"4 4 4"),
        "text": b"a CT",
        "cut off": b"PK\3\4" + bytes(40),
    }.get(name)
    slices = series(tmp_path / "slices")
    first, second = list(slices.values())[:2]
    archives = {
        "zip of two": {"a.nrrd": header("nrrd", b"4 4 4", bytes(128)), "1.dcm": first, "2.dcm": second},
        "zip of nothing": {"a.txt": b"x", "../b.txt": b"y"},
        "zip of many": {f"{n}.dcm": b"" for n in range(MAX_FILES + 1)},
        "zip of zeros": {"a.dcm": bytes(1000), "b.raw": bytes(2_000_000)},
        "zip of a huge header": {"a.mhd": header("mhd", huge), "a.raw": bytes(100)},
    }
    path = tmp_path / "x"
    if name == "zip of zeros":
        monkeypatch.setattr("demo.uploads.volume.MAX_UNPACKED", 1_000_000)
    path.write_bytes(first if data is None and name == "DICOM file" else data or b"")
    if name in archives:
        zipped(archives[name], path)
    with pytest.raises(UserError, match="^the CT: ") as refused:
        accepted(path, tmp_path)
    assert "\n" not in str(refused.value) and str(tmp_path) not in str(refused.value)
    assert not (tmp_path / "b.txt").exists()


@pytest.mark.parametrize("zip64", [False, True])
def test_a_zip_of_a_huge_directory_is_refused_before_it_is_parsed(tmp_path, monkeypatch, zip64):
    path, entries = tmp_path / "x", MAX_DIRECTORY // 46 + 1
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, FULL if zip64 else 46 * entries, 4, 0)
    if zip64:
        record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, entries, entries, 46 * entries, 4)
        end = record + struct.pack("<4sLQL", b"PK\6\7", 0, 4 + 46 * entries, 1) + end
    path.write_bytes(b"PK\3\4" + (b"PK\1\2" + bytes(42)) * entries + end)
    monkeypatch.setattr(zipfile, "ZipFile", None)  # must not be reached
    with pytest.raises(UserError, match="^the CT: a zip of too many or too large files"):
        accepted(path, tmp_path)


def test_a_zip64_of_few_files_is_read(tmp_path):
    """As programs write it that do not know the size beforehand."""
    path = tmp_path / "x.zip"
    data = save_nifti(tmp_path / "a.nii.gz", HU).read_bytes()
    with zipfile.ZipFile(path, "w") as archive, archive.open("ct.nii.gz", "w", force_zip64=True) as file:
        file.write(data)
    assert accepted(path, tmp_path).name.endswith("ct.nii.gz")
