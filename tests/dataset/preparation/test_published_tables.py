"""Published tables become rows with the columns of the preparation."""

import pytest

from common.errors import UserError
from dataset.io.xray_dicom import MODALITIES
from dataset.preparation.labels import match_labels
from dataset.preparation.published_tables import COLUMNS, read_table, values_by_key


def save(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_table_of_pairs_of_xray2ctpa(tmp_path):
    path = save(
        tmp_path / "y.csv", "Unnamed: 0,CT_Accession_number,cxr_Accession_number,PE\n0,4015,5015.0,1\n1,0016,6,0\n"
    )
    rows = read_table(path)
    assert rows.columns.tolist() == list(COLUMNS)
    assert rows[["ct_accession", "xray_accession", "label"]].values.tolist() == [["4015", "5015", 1], ["0016", "6", 0]]
    assert match_labels(values_by_key(rows, "label"), [("1.2", "0016"), ("4015",), ("9",)], path) == [0, 1, -1]


def test_a_folder_of_fold_tables_gives_splits(tmp_path):
    for name, number in (("y_train", 1), ("y_valid", 2), ("y_test", 3)):
        save(
            tmp_path / "fold0" / f"{name}.csv", f"CT_Accession_number,cxr_Accession_number,PE\n{number},x{number},0\n"
        )
    save(tmp_path / "fold0" / "notes.csv", "nothing,of,this\n")
    assert values_by_key(read_table(tmp_path / "fold0"), "split") == {"1": "train", "2": "val", "3": "test"}
    with pytest.raises(UserError, match="no train.csv"):
        read_table(tmp_path)


def test_a_patient_or_study_in_two_splits_is_refused_without_a_name(tmp_path):
    for name in ("train", "test"):
        save(tmp_path / "a" / f"{name}.csv", "Subject ID,Modality,File Location\nLIDC-7,CT,./a\n")
        save(tmp_path / "b" / f"{name}.csv", "CT_Accession_number,cxr_Accession_number,PE\n4711,1,0\n")
    for folder, word in (("a", "patient in two splits"), ("b", "ct_accession in two splits")):
        with pytest.raises(UserError, match=word) as caught:
            read_table(tmp_path / folder)
        assert "LIDC-7" not in str(caught.value) and "4711" not in str(caught.value)
        assert "test and train" in str(caught.value)


def test_download_table_of_lidc(tmp_path):
    header = "Series UID,Collection,Subject ID,Study UID,Modality,Number of Images,File Location"
    path = save(tmp_path / "metadata.csv", header + r"""
1.3.1,LIDC-IDRI,LIDC-IDRI-0001,1.9.1,CT,133,.\LIDC-IDRI\LIDC-IDRI-0001\01-01-2000-30178\3000566.000000-03192
1.3.2,LIDC-IDRI,LIDC-IDRI-0001,1.9.2,DX,2,.\LIDC-IDRI\LIDC-IDRI-0001\01-01-2000-35511\3000923.000000-62357
1.3.3,LIDC-IDRI,LIDC-IDRI-0001,1.9.1,SEG,1,.\LIDC-IDRI\x
""")  # fmt: skip
    rows = read_table(path)
    assert rows["modality"].tolist() == ["CT", "DX"]
    assert rows["location"].iloc[0] == "LIDC-IDRI/LIDC-IDRI-0001/01-01-2000-30178/3000566.000000-03192"
    assert set(rows["patient"]) == {"LIDC-IDRI-0001"} and rows["label"].tolist() == [-1, -1]
    assert values_by_key(rows, "label") == {"1.3.1": -1}  # the X-ray is not a case


@pytest.mark.parametrize("modality", MODALITIES)
def test_every_modality_that_is_read_as_an_x_ray_is_one_in_a_table(tmp_path, modality):
    header = "Series UID,Subject ID,Modality,File Location"
    rows = read_table(save(tmp_path / "t.csv", f"{header}\n1.1,P,CT,./a\n1.2,P,{modality},./b\n"))
    assert rows["modality"].tolist() == ["CT", modality] and values_by_key(rows, "label") == {"1.1": -1}


def test_rspect_rows_of_images_become_series_with_labels(tmp_path):
    header = "StudyInstanceUID,SeriesInstanceUID,SOPInstanceUID,pe_present_on_image,negative_exam_for_pe,indeterminate"
    lines = ["s1,r1,i1,0,0,0", "s1,r1,i2,1,0,0", "s2,r2,i3,0,1,0", "s2,r2,i4,0,1,0", "s3,r3,i5,0,0,1"]
    rows = read_table(save(tmp_path / "train.csv", "\n".join([header, *lines])))
    assert len(rows) == 3 and values_by_key(rows, "label") == {"r1": 1, "r2": 0, "r3": -1}
    with pytest.raises(UserError, match="without indeterminate"):
        read_table(save(tmp_path / "t.csv", "StudyInstanceUID,SeriesInstanceUID,negative_exam_for_pe\ns,r,0\n"))


@pytest.mark.parametrize("order", [1, -1])
def test_rows_without_a_value_do_not_replace_one(tmp_path, order):
    lines = ["7,a,1,train", "7,b,,", "8,c,,", "9,d,0,"][::order]
    rows = read_table(
        save(tmp_path / "t.csv", "\n".join(["CT_Accession_number,cxr_Accession_number,PE,split", *lines]))
    )
    assert values_by_key(rows, "label") == {"7": 1, "8": -1, "9": 0}
    assert values_by_key(rows, "split") == {"7": "train", "8": "", "9": ""}


def test_two_values_of_a_ct_are_refused_by_their_rows(tmp_path):
    path = save(tmp_path / "t.csv", "CT_Accession_number,cxr_Accession_number,PE\n4711,a,0\n\n8,b,0\n4711,c,1\n")
    rows = r"t.csv: row 2 and .*t.csv: row 5"
    with pytest.raises(UserError, match=rf"{rows} give one CT or patient two values of label; keep one") as caught:
        values_by_key(read_table(path), "label")
    assert "4711" not in str(caught.value)
    for name in ("train", "test"):
        save(tmp_path / "b" / f"{name}.csv", "SeriesInstanceUID\n1.2.3\n")
    with pytest.raises(UserError, match=r"test.csv: row 2 and .*train.csv: row 2 give .* two values of split"):
        values_by_key(read_table(tmp_path / "b"), "split")


def test_invalid_tables_are_refused(tmp_path):
    with pytest.raises(UserError, match="no column that names a CT; found a, b"):
        read_table(save(tmp_path / "a.csv", "a,b\n1,2\n"))
    with pytest.raises(UserError, match="row 3 has a PE that is neither"):
        read_table(save(tmp_path / "b.csv", "CT_Accession_number,PE\n1,0\n2,maybe\n"))
    with pytest.raises(UserError, match="no such file"):
        read_table(tmp_path / "c.csv")
