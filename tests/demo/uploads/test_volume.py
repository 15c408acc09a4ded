"""Uploaded CTs: every format of the readers gives its volume under any name; hostile headers and zips are refused."""

import io
import os
import struct
import zipfile

import numpy as np
import pytest
import SimpleITK as sitk
from chest_files import save_nifti, thorax
from dicom_files import write_ct_series, write_enhanced_ct
from hostile import deflated_bomb, dicom, nifti

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


def metaimage(*lines, size=b"4 4 4"):
    """A MetaImage whose voxels follow it, with further lines before `DimSize`."""
    return header("mha", size, bytes(128)).replace(b"DimSize", b"\n".join((*lines, b"DimSize")))


def nrrd(*lines):
    """A NRRD whose voxels follow it, with further lines after its first."""
    return header("nrrd", b"4 4 4", bytes(128)).replace(b"\n", b"\n".join((b"", *lines, b"")), 1)


def npz(dims, name="ct.npy"):
    content, whole = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": "<f4", "fortran_order": False, "shape": dims})
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr(name, content.getvalue())
    return whole.getvalue()


SECRET = b"/etc/passwd"  # a file of the server, which such a header would read
HEADERS = {  # spellings that MetaIO and NrrdIO take
    "a colon": metaimage(b"ElementDataFile : " + SECRET),
    "a space before a key": metaimage(b" ElementDataFile = " + SECRET),
    "a control character before a key": metaimage(b"\1ElementDataFile = " + SECRET),
    "a return": metaimage(b"Comment = a CT\rElementDataFile = " + SECRET),
    "two data files": metaimage(b"ElementDataFile = " + SECRET),
    "a second size": metaimage(b" DimSize = 2000 2000 2000"),
    "the same size twice": metaimage(b"DimSize = 4 4 4"),
    "a size of two lines": metaimage(size=b"2000\n2000 2000"),
    "a colon of a size": metaimage(size=b"4 4 4\nDimSize: 2000 2000 2000"),
    "many channels": metaimage(b"ElementNumberOfChannels = 40000000"),
    "channels after a colon": metaimage(b"ElementNumberOfChannels : 40000000"),
    "a header without an end": metaimage(*[b"Comment%d = a CT" % n for n in range(4000)]),
    "nrrd: a return": nrrd(b"# a CT\rdata file: " + SECRET),
    "nrrd: returns alone": nrrd(b"content: a\rdata file: " + SECRET + b"\r"),
    "nrrd: a data file": nrrd(b"data file: " + SECRET),
    "nrrd: a data file in capitals": nrrd(b"DATAFILE: " + SECRET),
    "nrrd: a space before a field": nrrd(b" data file: " + SECRET),
    "nrrd: two sizes": nrrd(b"sizes: 4 4 4"),
    "nrrd: a header without an end": nrrd(*[b"# a CT"] * 160000),
}
HOSTILE = [*HEADERS, "mha", "nrrd", "two sizes", "npz", "mhd", "nhdr", "DICOM file", "text", "cut off", "zip of two",
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
        **HEADERS,
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


def test_headers_of_other_writers_are_read(tmp_path):
    """Windows line ends, no spaces around `=`, comments, text beyond ASCII, pairs of NRRD, a header alone."""
    raw = np.rint(HU).astype("<i2").tobytes()
    size = b" ".join(b"%d" % n for n in HU.shape[::-1])
    lines = [b"NDims=3", b"Comment = K\xc3\xb6ln, 12:30", b"DimSize = " + size, b"ElementType = MET_SHORT"]
    mha = b"\r\n".join([*lines, b"ElementDataFile = LOCAL", raw])
    fields = [b"NRRD0005", b"# a CT", b"type: short", b"dimension: 3", b"sizes: " + size, b"encoding: raw"]
    fields += [b"endian: little", b"space: left-posterior-superior", b"org.a-b (c):=a: b"]
    fields += [b"space directions: (1,0,0) (0,1,0) (0,0,1)"]
    alone = {"a.nhdr": b"\n".join([*fields, b"data file: a.raw\n"]), "a.raw": raw}
    zipped(alone, tmp_path / "a.zip")
    for number, data in enumerate((mha, b"\n".join([*fields, b"", raw]), (tmp_path / "a.zip").read_bytes())):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "x").write_bytes(data)
        np.testing.assert_allclose(read_volume(accepted(folder / "x", folder)).hu, HU, atol=0.5)


@pytest.mark.parametrize("kind", ["mhd", "nhdr"])
@pytest.mark.parametrize("name", ["/etc/passwd", "../a.raw", "fifo", "-", "LIST", "a%d.raw 1 4 1", "b.raw"])
def test_a_header_in_a_zip_opens_no_file_of_elsewhere(tmp_path, kind, name):
    """Opening alone may wait for ever, as of a pipe."""
    os.mkfifo(tmp_path / "fifo")
    name = str(tmp_path / name) if name == "fifo" else name
    files = {f"a.{kind}": header(kind, b"4 4 4").replace(b"a.raw", name.encode()), "a.raw": bytes(128)}
    with pytest.raises(UserError, match="^the CT: its voxels are in another file; upload a zip of both"):
        accepted(zipped(files, tmp_path / "a.zip"), tmp_path)


@pytest.mark.parametrize("packing", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("name", ["ct.nii", "ct.npy"])
def test_a_packing_that_inflates_without_limit_is_refused(tmp_path, monkeypatch, packing, name):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", packing) as archive:
        archive.writestr(name, bytes(1000))
    monkeypatch.setattr(zipfile.ZipFile, "open", None)  # must not be reached
    with pytest.raises(UserError, match="^the CT: a zip packed with"):
        accepted(path, tmp_path)


def test_a_multi_frame_ct_in_a_zip_is_read(tmp_path):
    data = write_enhanced_ct(tmp_path / "a.dcm", HU, SPACING).read_bytes()
    volume = read_volume(accepted(zipped({"a.dcm": data}, tmp_path / "a.zip"), tmp_path))
    np.testing.assert_allclose(volume.hu, HU, atol=0.5)


@pytest.mark.parametrize("change", ["frames", "cut off"])
def test_a_wrong_multi_frame_ct_is_refused(tmp_path, monkeypatch, change):
    data = write_enhanced_ct(tmp_path / "a.dcm", HU, SPACING).read_bytes()
    if change == "frames":
        monkeypatch.setattr("demo.uploads.volume.MAX_VOXELS", HU.size - 1)
    else:
        data = data[:-2]
    with pytest.raises(UserError, match="at most 0 million" if change == "frames" else "cut off"):
        accepted(zipped({"a.dcm": data}, tmp_path / "a.zip"), tmp_path)


def test_files_beside_the_ct_are_left_out(tmp_path):
    """As the Python reader does: a dose report in colour, a report without picture, another modality."""
    report = {"Modality": "CT", "SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    placed = {"ImagePositionPatient": [0, 0, 0], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "PixelSpacing": [1, 1]}
    others = {
        "dose.dcm": dicom(SOPClassUID="1.2.840.10008.5.1.4.1.1.7", pixels=bytes(3 * 64 * 64), **report),
        "placed.dcm": dicom(pixels=bytes(3 * 64 * 64), **report, **placed),
        "sr.dcm": dicom(Modality="SR", Rows=None, Columns=None, pixels=b""),
        "xray.dcm": dicom(Rows=9000, Columns=9000),
    }
    volume = read_volume(accepted(zipped(series(tmp_path / "slices") | others, tmp_path / "a.zip"), tmp_path))
    np.testing.assert_allclose(volume.hu, HU, atol=0.5)


def test_a_deflated_slice_is_refused_before_it_is_decompressed(tmp_path, monkeypatch):
    path = zipped({"a.dcm": deflated_bomb()}, tmp_path / "a.zip")
    monkeypatch.setattr("demo.uploads.volume.read_ct_header", None)  # must not be reached
    with pytest.raises(UserError, match="^the CT: a deflated DICOM file"):
        accepted(path, tmp_path)


@pytest.mark.parametrize("datatype", [1024, 1280])
def test_integers_of_64_bits_are_read(tmp_path, datatype):
    values = (np.rint(HU) + (2000 if datatype == 1280 else 0)).astype("<i8")  # no HU, but counted alike
    data = nifti(HU.shape[::-1], datatype, data=values.tobytes())
    (tmp_path / "x").write_bytes(data)
    assert accepted(tmp_path / "x", tmp_path).stat().st_size == 352 + 8 * HU.size
    (tmp_path / "y").write_bytes(data[:-1])
    with pytest.raises(UserError, match="cut off"):
        accepted(tmp_path / "y", tmp_path)


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
