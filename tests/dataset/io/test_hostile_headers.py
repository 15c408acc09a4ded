"""Headers that SimpleITK reads otherwise than they look are refused, so no file outside of the folder is read."""

import time

import numpy as np
import pytest
import SimpleITK as sitk

from common.errors import UserError
from dataset.io.ct import read_volume
from dataset.io.volume_files import data_files, itk_header

VOXELS = np.full(64, -1000, np.int16).tobytes()
RAMP = (np.arange(64, dtype=np.int16) * 20 - 1000).tobytes()
META = b"ObjectType = Image\nNDims = 3\nDimSize = 4 4 4\nElementSpacing = 1 1 1\nElementType = MET_SHORT\n"
LOCAL = b"ElementDataFile = LOCAL\n" + VOXELS
NRRD = b"NRRD0004\ntype: short\ndimension: 3\nsizes: 4 4 4\nendian: little\nencoding: raw\n"
OUT = b"../secret.raw"

HOSTILE = {
    "colon": META + b"ElementDataFile : " + OUT + b"\n" + LOCAL,
    "space": META + b" ElementDataFile = " + OUT + b"\n" + LOCAL,
    "blank line": META + b"\n  \nElementDataFile = " + OUT + b"\n",
    "twice": META + b"ElementDataFile = " + OUT + b"\n" + LOCAL,
    "two spellings": META + b"elementdatafile = a.raw\nElementDataFile = " + OUT + b"\n",
    "one spelling": META + b"elementdatafile = LOCAL\n" + VOXELS,
    "carriage return": META + b"Comment = x\rElementDataFile = " + OUT + b"\n",
    "end of text": META + b"ElementDataFile = " + OUT + b"\0.raw\n" + LOCAL,
    "no name": META + b"ElementDataFile =\n" + OUT + b"\n" + LOCAL,
    "no field": META + b"junk\n" + LOCAL,
    "two sizes": META + b"DimSize = 9000 9000 9000\n" + LOCAL,
    "two sizes, colon": META + b"DimSize : 9000 9000 9000\n" + LOCAL,
    "two sizes, space": META + b" DimSize = 9000 9000 9000\n" + LOCAL,
    "list": META + b"ElementDataFile = LIST\n" + OUT + b"\n" * 4,
    "list of a kind": META + b"ElementDataFile = LIST 3\n" + OUT + b"\n",
    "pattern": META + b"ElementDataFile = ../secret.ra%c 119 119 1\n",
    "long": META + b"Comment = " + b"x" * (1 << 16) + b"\nElementDataFile = " + OUT + b"\n",
    "colon and equals": META + b"ElementDataFile : x = y\n" + LOCAL,
    "two sizes, colon and equals": META + b"DimSize : = 9000 9000 9000\n" + LOCAL,
    "one size, colon and equals": META.replace(b"DimSize", b"DimSize :") + LOCAL,
    "space, colon": META + b" DICOM:tag = x\n" + LOCAL,
    "signs before the value": META + b"ElementDataFile = =" + OUT + b"\n",
    "escape in a name": META + b"\x1bElementDataFile = x\n" + LOCAL,
    "escape in the data file": META + b"ElementDataFile = a.raw\x1b\n",
    "letter that MetaIO cuts off": META + "ElementDataFile = a.rawé\n".encode(),
    "no data": META + b"\n \t\n",
    "twice, of the geometry": META + b"elementspacing = 2 2 2\n" + LOCAL,
    "nrrd, escape in the data file": NRRD + b"data file: a.raw\x1b\n",
    "nrrd, two spellings": NRRD + b"data file: a.raw\ndatafile: " + OUT + b"\n",
    "nrrd, longer than its limit": NRRD + b"# " + b"x" * (1 << 20) + b"\n\n" + VOXELS,
    "nrrd": NRRD + b"data file: " + OUT + b"\n",
    "nrrd, one word": NRRD + b"DataFile: " + OUT + b"\n\n" + VOXELS,
    "nrrd, carriage return": NRRD + b"content: x\rdata file: " + OUT + b"\n\n" + VOXELS,
    "nrrd, comment": NRRD + b"# x\rdata file: " + OUT + b"\n\n" + VOXELS,
    "nrrd, magic": NRRD.replace(b"4\n", b"4\r", 1) + b"data file: " + OUT + b"\n\n" + VOXELS,
    "nrrd, end of text": NRRD + b"data file: " + OUT + b"\0\n\n" + VOXELS,
    "nrrd, twice": NRRD + b"data file: a.raw\ndata file: " + OUT + b"\n\n" + VOXELS,
    "nrrd, space": NRRD + b" data file: " + OUT + b"\n\n" + VOXELS,
    "nrrd, two sizes": NRRD + b"Sizes: 9000 9000 9000\n\n" + VOXELS,
    "nrrd, list": NRRD + b"data file: LIST\n" + OUT + b"\n",
    "nrrd, pattern": NRRD + b"data file: ../secret%03d.raw 1 4 1\n",
    "nrrd as MetaImage": NRRD + b"NDims: 3\nElementDataFile:=" + OUT + b"\nElementDataFile: LOCAL\n\n" + VOXELS,
    "MetaImage as nrrd": b"NRRD:=\n" + META.replace(b"\n", b":=\n") + b"ElementDataFile = LIST:=\n\n" + OUT + b"\n",
    "nrrd, standard input": NRRD + b"data file: -\n",
    "nrrd, long": NRRD + b"# " + b"x" * (1 << 16) + b"\ndata file: " + OUT + b"\n\n" + VOXELS,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("secret.raw", "in/a.raw", "in/-", "in/a.raw\x1b", "in/a.rawé"):
        (tmp_path / name).write_bytes(VOXELS)
    return tmp_path / "in"


@pytest.mark.parametrize("name", HOSTILE)
def test_a_header_of_two_readings_is_refused(folder, name, monkeypatch):
    monkeypatch.setattr(sitk.ImageFileReader, "Execute", None)  # must not be reached
    (folder / "x").write_bytes(HOSTILE[name])
    with pytest.raises(UserError) as caught:
        read_volume(folder / "x")
    assert str(folder / "x") in str(caught.value) and "\n" not in str(caught.value)
    data_files(folder / "x")  # leaves the error to the reader


@pytest.mark.parametrize("value", [b"LOCAL", b"Local", b"local", b"LOCAL \t"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_local_voxels_in_every_case_of_the_tools(folder, value, end):
    header = (META + b"0008|0060 = CT\nfoo bar=x: y = z\nElementDataFile = " + value).replace(b"\n", end)
    (folder / "x").write_bytes(header + end + RAMP)
    assert read_volume(folder / "x").hu.shape == (4, 4, 4) and data_files(folder / "x") == []


ESCAPED = "\x1b$B;3ED\x1b(B"  # a name by ISO 2022, as DICOM writes it


def values_of(path, kind):
    reader = sitk.ImageFileReader()
    reader.SetImageIO(kind)
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return {key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys()}


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (f"PatientName = {ESCAPED}", {"PatientName": ESCAPED}),
        ("(0008,0020) = 20240101\n#x = 1", {"(0008,0020)": "20240101", "#x": "1"}),
        ("DICOM:tag = y z", {"DICOM": "tag = y z"}),
        ("Key : = := y\nOther == = z", {"Key": "y", "Other": "z"}),
        ("A = 1\nA = 2\na = 3", {"A": "2"}),
        ("\n  \n \t\nA = 1\n", {"A": "1"}),
        ("Comment = a\nComment = b", {}),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lines_of_other_writers_are_read_as_simpleitk_reads_them(folder, lines, expected, end):
    header = META + lines.encode() + b"\nElementDataFile = LOCAL\n"
    (folder / "x").write_bytes(header.replace(b"\n", end.encode()) + RAMP)
    fields, values = itk_header(folder / "x"), values_of(folder / "x", "MetaImageIO")
    for key, value in expected.items():
        assert values[key] == value and fields[key.lower()] in (value, "3")
    assert read_volume(folder / "x").hu.shape == (4, 4, 4) and data_files(folder / "x") == []


def test_a_long_nrrd_header_and_its_text_are_read(folder):
    (folder / "a.raw").write_bytes(RAMP)
    text = f"PatientName:={ESCAPED}\ntag:={'x' * 70000}\ncontent: {ESCAPED}\n"
    for name, rest in (("x.nrrd", b"\n" + RAMP), ("x.nhdr", b"data file: a.raw\n")):
        path = folder / name
        path.write_bytes(NRRD + text.encode() + b"# x\n" * 30000 + rest)
        assert values_of(path, "NrrdImageIO")["PatientName"] == ESCAPED and itk_header(path)["content"] == ESCAPED
        assert read_volume(path).hu.shape == (4, 4, 4)
        assert data_files(path) == ([folder / "a.raw"] if name.endswith("nhdr") else [])


def test_a_long_line_of_blanks_takes_no_time(folder):
    blanks = b"Comment = a" + b" " * 60000 + b"b" + b"\n"
    (folder / "x").write_bytes(META + blanks + LOCAL)
    start = time.perf_counter()
    assert itk_header(folder / "x")["comment"].endswith("b") and time.perf_counter() - start < 1


def test_the_names_of_a_header_written_by_simpleitk_are_read(folder):
    image = sitk.GetImageFromArray(np.arange(64, dtype=np.int16).reshape(4, 4, 4) * 20 - 1000)
    for key in ("0008|0060", "foo bar"):
        image.SetMetaData(key, "a: b := c")
    for name in ("m.mha", "m.mhd", "m.nrrd", "m.nhdr"):
        sitk.WriteImage(image, str(folder / name))
        assert {"dimsize", "sizes"} & itk_header(folder / name).keys()
        assert read_volume(folder / name).hu.shape == (4, 4, 4)
