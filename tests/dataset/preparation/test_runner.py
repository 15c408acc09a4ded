"""Copies of a scan in the folders of several splits are one patient of one split."""

import numpy as np
import pytest
from chest_files import save_nifti
from dicom_files import CENTRE
from prepare_runs import HU, OTHER, SPACING, run


@pytest.mark.parametrize(("splits", "expected"), [(("train", "test"), "test"), (("train", "val"), "val")])
def test_a_patient_with_copies_of_a_scan_in_two_splits_gets_one(tmp_path, splits, expected):
    for i, split in enumerate(("train", "val", "test")):
        save_nifti(tmp_path / "in" / split / f"own_{split}.nii", OTHER + np.int16(i), SPACING, CENTRE)
    for split in splits:
        save_nifti(tmp_path / "in" / split / f"copy_{split}.nii", HU, SPACING, CENTRE)
    options = {"spacing": "null", "crop_box": "whole", "min_vessel_hu": "null"}
    manifest, summary = run(tmp_path / "in", tmp_path / "out", **options)  # reads the manifest
    rows = manifest.set_index("patient_raw")
    copies = rows.loc[[f"copy_{split}" for split in splits]]
    assert copies["patient"].nunique() == 1 and set(copies["split"]) == {expected}
    assert all(rows.loc[f"own_{split}", "split"] == split for split in ("train", "val", "test"))
    flag = f"split {expected} instead of train, where its patient has a copy of a scan"
    reasons = summary.set_index("id")["reason"]
    flagged = [flag in reasons[rows.loc[name, "id"]] for name in rows.index]
    assert flagged == [name == "copy_train" for name in rows.index]


def test_all_scans_of_the_patient_change_with_the_copy(tmp_path):
    save_nifti(tmp_path / "in" / "train" / "A" / "copy.nii", HU, SPACING, CENTRE)
    save_nifti(tmp_path / "in" / "train" / "A" / "other.nii", OTHER, SPACING, CENTRE)
    save_nifti(tmp_path / "in" / "train" / "C.nii", OTHER + np.int16(2), SPACING, CENTRE)
    save_nifti(tmp_path / "in" / "val" / "D.nii", OTHER + np.int16(1), SPACING, CENTRE)
    save_nifti(tmp_path / "in" / "test" / "B.nii", HU, SPACING, CENTRE)
    options = {"spacing": "null", "crop_box": "whole", "min_vessel_hu": "null"}
    manifest, summary = run(tmp_path / "in", tmp_path / "out", **options)
    assert sorted(zip(manifest["patient_raw"], manifest["split"], strict=True)) == [
        ("A", "test"), ("A", "test"), ("B", "test"), ("C", "train"), ("D", "val")]  # fmt: skip
    assert summary["reason"].str.contains("split test instead of train").sum() == 2
