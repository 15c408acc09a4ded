"""Frontal and lateral X-rays of a folder, paired by name and by header."""

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import generate_uid
from radiograph_files import save_radiograph

from common.errors import UserError
from dataset.io.xray import find_xrays
from evaluation.generation.view_pairs import frontal_views, pair_views


def save(folder, *names):
    for name in names:
        Image.fromarray(np.arange(400, dtype=np.uint8).reshape(20, 20)).save(folder / name)


def found(folder) -> list:
    """Names of the patients' files."""
    return [
        one.name if not isinstance(one, tuple) else tuple(p.name for p in one)
        for one in pair_views(find_xrays(folder))
    ]


@pytest.mark.parametrize(
    ("frontal", "lateral"),
    [
        ("a_pa.png", "a_lat.png"),
        ("a_frontal.png", "a_lateral.png"),
        ("A-AP.png", "a-LAT.jpg"),
        ("pa.png", "lateral.png"),
    ],
)
def test_names_pair_a_frontal_with_its_lateral(tmp_path, frontal, lateral):
    save(tmp_path, frontal, lateral, "b.png", "c_pa.png", "palate.png")
    assert sorted(map(str, found(tmp_path))) == sorted(
        map(str, ["b.png", "c_pa.png", "palate.png", (frontal, lateral)])
    )


def test_the_header_pairs_dicom_files_of_a_study_and_counts_more_than_the_name(tmp_path):
    one, other = generate_uid(), generate_uid()
    save_radiograph(tmp_path / "1_lat.dcm", view="PA", study_uid=one)
    save_radiograph(tmp_path / "2.dcm", view="LL", study_uid=one)
    save_radiograph(tmp_path / "3.dcm", view="AP", study_uid=other)
    assert found(tmp_path) == [("1_lat.dcm", "2.dcm"), "3.dcm"]


def test_the_header_of_files_without_preamble_counts_too(tmp_path):
    one = generate_uid()
    for name, view in (("1.dcm", "PA"), ("2.dcm", "LL")):
        path = save_radiograph(tmp_path / name, view=view, study_uid=one)
        path.write_bytes(path.read_bytes()[132:])
    assert found(tmp_path) == [("1.dcm", "2.dcm")]


def test_a_dicom_file_without_a_view_takes_it_from_its_name(tmp_path):
    study = generate_uid()
    for name in ("x_lat.dcm", "x_pa.dcm"):
        save_radiograph(tmp_path / name, view=None, orientation=None, study_uid=study)
    assert found(tmp_path) == [("x_pa.dcm", "x_lat.dcm")]


def test_what_cannot_be_paired_is_named(tmp_path):
    save(tmp_path, "a_lat.png", "b_pa.png")
    with pytest.raises(UserError, match="a_lat.png: a lateral without a frontal"):
        found(tmp_path)
    save(tmp_path, "a_pa.png", "a_ap.png")
    with pytest.raises(UserError, match="a_lat.png: 2 frontal and 1 lateral X-rays of one patient"):
        found(tmp_path)


def test_a_model_of_one_view_takes_all_frontals_and_names_the_laterals(tmp_path, caplog):
    study = generate_uid()
    for name, view in (("1.dcm", "PA"), ("2.dcm", "LL"), ("3.dcm", "LL"), ("4.dcm", "AP")):
        save_radiograph(tmp_path / name, view=view, study_uid=study)
    save(tmp_path, "b.png", "c_lat.png")
    assert [p.name for p in frontal_views(find_xrays(tmp_path))] == ["1.dcm", "4.dcm", "b.png"]
    assert "3 laterals are left out (2.dcm, 3.dcm, c_lat.png)" in caplog.text
    with pytest.raises(UserError, match="2.dcm: a lateral, as all X-rays here"):
        frontal_views([tmp_path / "2.dcm", tmp_path / "3.dcm"])


def test_damaged_files_stay_for_their_reader(tmp_path):
    (tmp_path / "a.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 40)
    assert found(tmp_path) == ["a.dcm"]
