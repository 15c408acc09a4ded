"""Labels of any table become 0, 1, -1; an ambiguous table is refused, and no message holds an id."""

import logging

import pytest

from common.errors import UserError
from dataset.preparation.labels import match_labels, read_labels

SECRET = "DOE-4711"


def table(folder, text):
    path = folder / "labels.csv"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("values", "positive", "wanted"),
    [
        ("1,0,", 1, [1, 0, -1]),
        ("1.0,0.0,nan", 1, [1, 0, -1]),
        ("yes,no,NA", "Yes", [1, 0, -1]),
        ("PE,no PE,unknown", "pe", [1, 0, -1]),
        ("True,False,-1", True, [1, 0, -1]),
        ("0,1,0", "0", [1, 0, 1]),
        ("0,0,0", 1, [0, 0, 0]),
    ],
)
def test_values_become_labels(tmp_path, values, positive, wanted):
    rows = "\n".join(f"p{i},{value}" for i, value in enumerate(values.split(",")))
    found = read_labels(table(tmp_path, f"id,PE\n{rows}\n"), "id", "PE", positive)
    assert found == {f"p{i}": label for i, label in enumerate(wanted)}


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_separators_byte_order_mark_and_spreadsheet_numbers(tmp_path, separator):
    text = "\ufeff" + "\n".join(
        separator.join(row) for row in (("note", "id", "pe"), ("x", "123.0", "1"), ("", "7", "0"))
    )
    assert read_labels(table(tmp_path, text), "id", "pe") == {"123": 1, "7": 0}


def test_ambiguous_values_are_refused(tmp_path):
    path = table(tmp_path, "id,pe\na,yes\nb,no\nc,indeterminate\n")
    with pytest.raises(UserError, match="label.negative"):
        read_labels(path, "id", "pe", "yes")
    assert read_labels(path, "id", "pe", "yes", "no") == {"a": 1, "b": 0, "c": -1}
    assert read_labels(path, "id", "pe", ["yes", "indeterminate"]) == {"a": 1, "b": 0, "c": 1}
    with pytest.raises(UserError, match="in label.positive and in label.negative"):
        read_labels(path, "id", "pe", "yes", ["yes", "no"])
    with pytest.raises(UserError, match="never is 1, it is indeterminate, no, yes; set label.positive"):
        read_labels(path, "id", "pe", 1)


def test_contradictory_rows_are_refused_by_number(tmp_path):
    assert read_labels(table(tmp_path, "id,pe\na,1\na,1\nb,0\n"), "id", "pe") == {"a": 1, "b": 0}
    with pytest.raises(UserError, match="rows 2 and 5 give one id two labels") as caught:
        read_labels(table(tmp_path, f"id,pe\n{SECRET},1\nb,0\nb,0\n{SECRET},0\n"), "id", "pe")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("negative", "indeterminate", "label"),
    [("1", "0", 0), ("0", "0", 1), ("0", "1", -1), ("1", "1", -1), ("", "0", -1), ("0", "", -1), ("0.0", "0.0", 1)],
)
def test_rspect_counts_no_indeterminate_exam_as_an_embolism(tmp_path, negative, indeterminate, label):
    path = table(tmp_path, f"StudyInstanceUID,negative_exam_for_pe,indeterminate\n1.2.3,{negative},{indeterminate}\n")
    assert read_labels(path, "StudyInstanceUID", "negative_exam_for_pe") == {"1.2.3": label}


def test_unreadable_tables_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_labels(tmp_path / "none.csv", "id", "pe")
    with pytest.raises(UserError, match="no column PE; the table has id, pe"):
        read_labels(table(tmp_path, "id,pe\na,1\n"), "id", "PE")
    with pytest.raises(UserError, match="not a readable CSV"):
        read_labels(table(tmp_path, ""), "id", "pe")
    binary = tmp_path / "labels.xlsx"
    binary.write_bytes(b"PK\x03\x04\xff\xfe\x00")
    with pytest.raises(UserError, match="not a readable CSV"):
        read_labels(binary, "id", "pe")


def test_unknown_ids_are_counted_without_their_names(caplog):
    caplog.set_level(logging.WARNING)
    found = match_labels({"a": 1, SECRET: 0}, [("1.2", "a"), ("1.3", "b")], "labels.csv")
    assert found == [1, -1]
    assert "1 ids that no case" in caplog.text and "number 2" in caplog.text and SECRET not in caplog.text
    with pytest.raises(UserError, match="none of its 1 ids is in the source"):
        match_labels({SECRET: 0}, [("a",)], "labels.csv")


def test_a_case_with_two_different_labels_is_refused():
    with pytest.raises(UserError, match="one label by"):
        match_labels({"patient": 1, "study": 0}, [("study", "patient")], "labels.csv")
    assert match_labels({"patient": 1, "study": 1}, [("study", "patient")], "labels.csv") == [1]
