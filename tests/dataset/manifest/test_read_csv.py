"""Tables of spreadsheets are read whatever their separator and encoding, the own manifest too."""

import pytest
from chest_files import save_nifti, thorax
from folder_sources import source

from common.errors import UserError
from common.files import visible
from dataset.manifest.read_csv import read_csv
from dataset.manifest.table import read_manifest
from dataset.preparation.published_tables import read_table

ROWS = [("id", "patient", "ct", "hours_xray_to_ct"), ("1", "Müller", "ct/a.nii", "1.5"), ("2", "p, 2", "ct/b.nii", "")]


def written(path, separator=",", encoding="utf-8", end="\n", text=lambda t: t):
    lines = (separator.join(f'"{v}"' if separator in v or "," in v else v for v in row) for row in ROWS)
    path.write_bytes(text(end.join(lines) + end).encode(encoding))
    return path


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_separator_encoding_and_line_ends(tmp_path, separator, encoding, end):
    rows = read_manifest(written(tmp_path / "manifest.csv", separator, encoding, end))
    assert list(rows["patient"]) == ["Müller", "p, 2"] and rows["hours_xray_to_ct"][0] == 1.5


CHANGES = {
    "capitals": lambda t: t.replace("id,patient,ct", "ID,Patient,CT"),
    "blank rows": lambda t: t + ",,,\n\n , ,,\n",
    "backslashes": lambda t: t.replace("ct/", "ct\\"),
    "spaces": lambda t: t.replace(",", " , "),
    "decimal comma": lambda t: t.replace(",", ";").replace("1.5", "1,5"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_manifest_as_others_save_it(tmp_path, change):
    expected = read_manifest(written(tmp_path / "plain.csv")).drop(columns="patient")
    found = read_manifest(written(tmp_path / "a.csv", text=CHANGES[change])).drop(columns="patient")
    assert found.equals(expected)


def test_files_named_with_backslashes_are_found(tmp_path):
    for name in "ab":
        save_nifti(tmp_path / "set" / "ct" / f"{name}.nii", thorax(size=(6, 8, 10)))
    written(tmp_path / "set" / "manifest.csv", text=CHANGES["backslashes"])
    assert len(source(tmp_path / "set").rows) == 2


def test_rows_keep_their_number(tmp_path):
    (tmp_path / "a.csv").write_text("x;y\n1;2\n;\n3;4\n")
    assert list(read_csv(tmp_path / "a.csv").index) == [0, 2]


def test_a_missing_column_is_named_with_those_found(tmp_path):
    with pytest.raises(UserError, match="no column z; the table has x, y"):
        (tmp_path / "a.csv").write_text("x;y\n1;2\n")
        read_csv(tmp_path / "a.csv", ["z"])


def test_hidden_files_are_no_tables(tmp_path):
    (tmp_path / "train.csv").write_text("Subject ID,split\ncase1,train\n")
    (tmp_path / "._train.csv").write_bytes(bytes([0, 5, 22, 7]) + bytes(4000))
    (tmp_path / ".DS_Store").write_bytes(bytes(64))
    assert len(read_table(tmp_path)) == 1
    assert [file.name for file in visible(tmp_path.iterdir())] == ["train.csv"]


@pytest.mark.parametrize("separator", ["|", ";"])
@pytest.mark.parametrize("first", ["sep={}\n", '"sep={}"\n', ""])
def test_bars_and_a_line_that_names_the_separator(tmp_path, separator, first):
    path = written(tmp_path / "manifest.csv", separator, text=lambda t: first.format(separator) + t)
    assert list(read_manifest(path)["ct"]) == ["ct/a.nii", "ct/b.nii"]


@pytest.mark.parametrize(
    ("written_age", "years"), [("063Y", 63), ("63,0", 63), ("018M", 1), ("20D", 0), ("", -1), ("7", 7)]
)
def test_ages_as_dicom_and_spreadsheets_write_them(tmp_path, written_age, years):
    (tmp_path / "m.csv").write_text(f"id;patient;ct;age\n1;a;x.nii;{written_age}\n")
    assert read_manifest(tmp_path / "m.csv")["age"][0] == years
