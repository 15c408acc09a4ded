"""A DICOM series spread over folders is refused by name; other scans in two folders are not."""

import pytest
from chest_files import thorax
from dicom_files import write_ct_series

from common.errors import UserError
from dataset.sources.folder_scan import discover

HU = thorax(size=(12, 8, 10))


def write(folder, uid="1.2.3", patient="A", **options):
    return write_ct_series(folder, HU, series_uid=uid, study_uid="1.2", patient=patient, **options)


@pytest.mark.parametrize("in_second", [6, 2, 1])  # with few slices none of them is a volume
def test_a_series_in_two_folders_is_refused(tmp_path, in_second):
    write(tmp_path / "PAT" / "DIR000", skip=range(12 - in_second, 12))
    write(tmp_path / "PAT" / "DIR001", skip=range(12 - in_second))
    write(tmp_path / "OTHER", uid="1.2.4", patient="B")
    with pytest.raises(UserError, match="one DICOM series") as caught:
        discover(tmp_path)
    line = str(caught.value)
    assert "PAT/DIR000 and PAT/DIR001" in line and "\n" not in line
    assert "put its slices into one folder, or run dataset/prepare.py" in line


def test_slices_that_are_alone_in_each_folder_are_refused_with_the_remedy(tmp_path):
    for i in range(12):
        write(tmp_path / f"DIR{i:03d}", skip=[j for j in range(12) if j != i])
    with pytest.raises(UserError, match="DIR000 and DIR001 .* one DICOM series"):
        discover(tmp_path)


def test_series_of_one_study_in_two_folders_are_several_cts(tmp_path):
    write(tmp_path / "a" / "soft", uid="1.2.3")
    write(tmp_path / "a" / "sharp", uid="1.2.4")
    write(tmp_path / "b", uid="1.2.3", patient="B")  # an anonymiser gave one UID to scans of two patients
    write(tmp_path / "c" / "scout", uid="1.2.5", skip=range(2, 12), image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"))
    write(tmp_path / "c" / "ct", uid="1.2.5")
    assert sorted(discover(tmp_path)["ct"]) == ["a/sharp", "a/soft", "b", "c/ct"]


def test_series_without_a_uid_in_two_folders_are_several_cts(tmp_path):
    for name in "ab":
        write(tmp_path / name, extra={"SeriesInstanceUID": None})
    assert sorted(discover(tmp_path)["ct"]) == ["a", "b"]
