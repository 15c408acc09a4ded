"""Frontal and lateral X-rays of a folder, paired by name and by header."""

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import generate_uid
from radiograph_files import save_radiograph

from common.errors import UserError
from dataset.io.xray import find_xrays
from evaluation.generation.view_pairs import count_line, frontal_views, pair_views, view_in_name


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
        ("a_pa_1.png", "a_lat_1.png"),
        ("a_AP2.png", "a_LL2.png"),
        ("PA_a.png", "LAT_a.png"),
        ("ap-a_1.png", "LAT-a_1.png"),
        ("pa_1.png", "lat_1.png"),
        ("PA_a.png", "a_lat.png"),
        ("A.png", "a_lat.png"),
        ("a_1.png", "a_lat_1.png"),
        ("1.2.840_pa.png", "1.2.840_lat.png"),
    ],
)
def test_names_pair_a_frontal_with_its_lateral(tmp_path, frontal, lateral):
    save(tmp_path, frontal, lateral, "b.png", "c_pa.png", "palate.png")
    assert sorted(map(str, found(tmp_path))) == sorted(
        map(str, ["b.png", "c_pa.png", "palate.png", (frontal, lateral)])
    )


def test_initials_at_the_end_of_a_name_are_no_view(tmp_path):
    save(tmp_path, "smith_rl.png", "jones_ll.png", "a_pa.png", "a_rl.png", "b.png", "b_ll.png")
    assert sorted(map(str, found(tmp_path))) == sorted(
        map(str, ["jones_ll.png", "smith_rl.png", ("a_pa.png", "a_rl.png"), ("b.png", "b_ll.png")])
    )
    save_radiograph(tmp_path / "c_rl.dcm", view="LL")
    with pytest.raises(UserError, match="c_rl.dcm: a lateral without a frontal"):
        found(tmp_path)


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


@pytest.mark.parametrize(
    ("name", "view"),
    [
        ("1.2.840_pa.nii.gz", "frontal"),
        ("anna.pa.nii.gz", "frontal"),
        ("anna.lat.NII.GZ", "lateral"),
        ("anna_rl_02.dcm", "lateral"),
        ("pa_lat.png", "lateral"),
        ("anna.nii.gz", ""),
        ("palate.png", ""),
        ("anna_pa_1_2.png", ""),
        ("RL_001.png", ""),
        ("small.png", ""),
    ],
)
def test_the_view_of_a_name(tmp_path, name, view):
    assert view_in_name(tmp_path / name) == view


def test_files_of_different_studies_and_formats_pair_by_name(tmp_path):
    save_radiograph(tmp_path / "anna_lat.dcm", view="LL")
    save_radiograph(tmp_path / "anna_pa.dcm", view="PA")
    save_radiograph(tmp_path / "bert.dcm", view="AP")
    save(tmp_path, "bert_lat.png")
    assert found(tmp_path) == [("anna_pa.dcm", "anna_lat.dcm"), ("bert.dcm", "bert_lat.png")]


def test_a_study_counts_more_than_names(tmp_path):
    study = generate_uid()
    save_radiograph(tmp_path / "a_lat.dcm", view="LL", study_uid=study)
    save_radiograph(tmp_path / "a_pa.dcm", view="PA")
    save_radiograph(tmp_path / "b_pa.dcm", view="PA", study_uid=study)
    assert found(tmp_path) == ["a_pa.dcm", ("b_pa.dcm", "a_lat.dcm")]
    save_radiograph(tmp_path / "c.dcm", view="LL")
    save(tmp_path, "c.png")  # may be an export of the lateral
    with pytest.raises(UserError, match="c.dcm: a lateral without .*Study Instance UIDs differ.*<patient>_lat"):
        found(tmp_path)


def test_a_file_without_a_view_is_the_frontal_only_if_it_is_the_only_one(tmp_path):
    save(tmp_path, "a.png", "a_lat.png", "a_pa.png", "b.jpg")
    assert found(tmp_path) == ["a.png", ("a_pa.png", "a_lat.png"), "b.jpg"]
    save(tmp_path, "b.png", "b_lat.png")
    with pytest.raises(UserError, match="b_lat.png: 2 frontal and 1 lateral"):
        found(tmp_path)


def test_other_views_are_left_out_with_a_warning(tmp_path, caplog):
    study = generate_uid()
    for name, view in (("1.dcm", "PA"), ("2.dcm", "LAO"), ("3_lat.dcm", "RLD"), ("4.dcm", "LL")):
        save_radiograph(tmp_path / name, view=view, study_uid=study)
    assert found(tmp_path) == [("1.dcm", "4.dcm")]
    assert "2 oblique, decubitus or lordotic X-rays are left out (2.dcm, 3_lat.dcm)" in caplog.text
    caplog.clear()
    assert frontal_views(find_xrays(tmp_path)) == [tmp_path / "1.dcm"]
    assert "(2.dcm, 3_lat.dcm)" in caplog.text and "1 laterals are left out (4.dcm)" in caplog.text
    for choose in (pair_views, frontal_views):
        with pytest.raises(UserError, match="2.dcm: an oblique, decubitus or lordotic view, as all X-rays here"):
            choose([tmp_path / "2.dcm"])


def test_the_count_of_pairs(tmp_path):
    save(tmp_path, "a_pa.png", "a_lat.png", "b.png", "c_ap.png")
    assert count_line(pair_views(find_xrays(tmp_path))) == "pairs of a frontal and a lateral: 1; frontals alone: 2"
