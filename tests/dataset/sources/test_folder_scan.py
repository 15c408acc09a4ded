"""DICOM series in folders: those of one Patient ID are one patient, one spread over folders is refused by name."""

import pytest
from chest_files import save_nifti, thorax
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


def scans(root, patients):
    """A small series in each folder, by Patient ID."""
    for i, (folder, patient) in enumerate(patients.items()):
        write_ct_series(root / folder, HU[:4], series_uid=f"1.2.{i}", study_uid=f"1.3.{i}", patient=patient)
    return root


def test_folders_of_one_patient_id_are_one_patient(tmp_path, caplog):
    ids = {"ACC1/s": "P1", "ACC2/s": "P2", "ACC3/s": "P1", "ACC3/t": "P3", "x/y/ACC4": "P3", "ACC5": "", "ACC6": ""}
    patient = discover(scans(tmp_path, ids)).set_index("ct")["patient"]
    assert patient["ACC1/s"] == patient["ACC3/s"] == patient["ACC3/t"] == patient["x/y/ACC4"]
    assert patient.nunique() == 4 and "2 patients are merged with another one" in caplog.text
    assert not caplog.text.count("P1")


def test_a_constant_patient_id_says_nothing(tmp_path):
    assert discover(scans(tmp_path, dict.fromkeys(["A", "B", "C"], "ANON")))["patient"].nunique() == 3


@pytest.mark.parametrize(
    "number", ["ANONYMOUS", "anon-7", "Unknown", "none", "Test 4", "PATIENT", "XXX", "0000", "12"]
)
def test_a_placeholder_says_nothing_beside_other_ids(tmp_path, caplog, number):
    ids = {"A": number, "B": number, "C": "P-77", "D": "P-77", "E": "QA"}
    patient = discover(scans(tmp_path, ids)).set_index("ct")["patient"]
    assert patient.nunique() == 4 and patient["C"] == patient["D"] and "connect none" not in caplog.text


@pytest.mark.parametrize("number", ["1234", "Patterson", "0001", "X-1", "Nonet"])
def test_ids_that_look_like_placeholders_are_ids(tmp_path, number):
    patient = discover(scans(tmp_path, {"A": number, "B": number, "C": "QA"}))["patient"]
    assert patient.nunique() == 2


def test_an_id_of_many_folders_connects_none_with_one_warning(tmp_path, caplog):
    ids = {f"s{i}": "SITE-A" for i in range(7)} | {f"f{i}": "P-5" for i in range(5)} | {"q": "QA"}
    splits = {f"{'test' if name == 'q' else 'train'}/{name}": number for name, number in ids.items()}
    patient = discover(scans(tmp_path, splits)).set_index("ct")["patient"]
    assert patient.nunique() == 9 and patient.filter(like="/f").nunique() == 1
    warnings = [record.getMessage() for record in caplog.records if "connect none" in record.getMessage()]
    assert len(warnings) == 1 and "1 Patient IDs of more than 5 folders or files each (7)" in warnings[0]
    assert "write a manifest.csv" in warnings[0] and "SITE-A" not in caplog.text


def test_a_name_in_the_folders_of_two_splits_is_refused(tmp_path):
    for name in ("train/p1/a.nii.gz", "train/p1/b.nii.gz", "train/q.nii.gz", "test/p1.nii.gz"):
        save_nifti(tmp_path / name, HU)
    with pytest.raises(UserError, match=r"are of one patient \(by Patient ID or name\); move one of them, or write"):
        discover(tmp_path)


def test_a_series_without_patient_id_is_of_the_patient_of_its_study(tmp_path):
    scans(tmp_path, {"A": "P1", "B": "P2", "C": ""})
    write_ct_series(tmp_path / "D", HU[:4], series_uid="1.2.9", study_uid="1.3.0", patient="")
    patient = discover(tmp_path).set_index("ct")["patient"]
    assert patient["A"] == patient["D"] and patient.nunique() == 3


def test_a_patient_id_in_the_folders_of_two_splits_is_refused(tmp_path):
    scans(tmp_path, {"train/A": "P1", "train/B": "P2", "test/C": "P1"})
    with pytest.raises(
        UserError,
        match=r"test/C in test and train/A in (train|val) are of one patient \(by Patient ID or name\); move",
    ) as caught:
        discover(tmp_path)
    assert "P1" not in str(caught.value)


def test_validation_takes_whole_patients_by_their_ids(tmp_path):
    ids = {f"train/A{i}": f"P{i % 4}" for i in range(12)} | {"test/X": "Q", "test/Y": "Q"}
    rows = discover(scans(tmp_path, ids))
    assert rows["patient"].nunique() == 5 and (rows.groupby("patient")["split"].nunique() == 1).all()
    assert rows.groupby("split")["patient"].nunique().to_dict() == {"train": 3, "val": 1, "test": 1}
