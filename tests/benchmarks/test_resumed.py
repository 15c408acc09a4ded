"""A folder of results keeps those of one setting."""

import pytest

from benchmarks.resumed import expect_same


def test_results_of_other_settings_are_refused(tmp_path):
    for _ in range(2):
        expect_same(tmp_path, {"checkpoint": "a", "split": "val"})
    with pytest.raises(SystemExit, match=r"other settings \(checkpoint was a, is b\); give another"):
        expect_same(tmp_path, {"checkpoint": "b", "split": "val"})


def test_results_without_settings_are_refused(tmp_path):
    (tmp_path / "rows.jsonl").write_text("{}")
    with pytest.raises(SystemExit, match="results of unknown settings"):
        expect_same(tmp_path, {"checkpoint": "a"})
