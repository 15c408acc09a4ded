"""Headers that SimpleITK reads otherwise than they look are refused, so no file outside of the folder is read."""

import numpy as np
import pytest
import SimpleITK as sitk

from common.errors import UserError
from dataset.io.ct import read_volume
from dataset.io.volume_files import data_files, itk_header

VOXELS = np.full(64, -1000, np.int16).tobytes()
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
    for name in ("secret.raw", "in/a.raw", "in/-"):
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
    voxels = (np.arange(64, dtype=np.int16) * 20 - 1000).tobytes()
    header = (META + b"0008|0060 = CT\nfoo bar=x: y = z\nElementDataFile = " + value).replace(b"\n", end)
    (folder / "x").write_bytes(header + end + voxels)
    assert read_volume(folder / "x").hu.shape == (4, 4, 4) and data_files(folder / "x") == []


def test_the_names_of_a_header_written_by_simpleitk_are_read(folder):
    image = sitk.GetImageFromArray(np.arange(64, dtype=np.int16).reshape(4, 4, 4) * 20 - 1000)
    for key in ("0008|0060", "foo bar"):
        image.SetMetaData(key, "a: b := c")
    for name in ("m.mha", "m.mhd", "m.nrrd", "m.nhdr"):
        sitk.WriteImage(image, str(folder / name))
        assert {"dimsize", "sizes"} & itk_header(folder / name).keys()
        assert read_volume(folder / name).hu.shape == (4, 4, 4)
