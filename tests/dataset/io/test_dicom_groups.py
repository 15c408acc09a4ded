"""Slices are joined by patient, study and series, where these are missing or wrong by their positions."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from chest_files import thorax
from dicom_files import CENTRE, SPACING, write_ct_series
from prepare_runs import HU as CHEST
from prepare_runs import run, write

from common.errors import UserError
from dataset.io.ct import read_volume
from dataset.io.dicom_series import find_ct_series
from dataset.io.dicom_volume import read_series
from dataset.sources.folder_scan import discover

HU = thorax(size=(12, 10, 14))


def edited(folder: Path, **values) -> Path:
    """Sets elements of every file; a value may be a function of the number of the file, None removes the element."""
    for i, path in enumerate(sorted(folder.rglob("*.dcm"))):
        ds = pydicom.dcmread(path)
        for keyword, value in values.items():
            value = value(i) if callable(value) else value
            if value is None:
                delattr(ds, keyword)
            else:
                setattr(ds, keyword, value)
        pydicom.dcmwrite(path, ds)
    return folder


def shapes(folder):
    return [read_series(one).hu.shape for one in find_ct_series(folder) if not one.dropped]


@pytest.mark.parametrize("lift", [0.0, len(HU) * SPACING[0], 0.4 * SPACING[0]])
@pytest.mark.parametrize("other", [{"patient": "B"}, {"study_uid": "1.8"}, {"patient": "B", "study_uid": "1.8"}])
def test_two_owners_of_one_uid_are_two_series(tmp_path, other, lift):
    same = {"series_uid": "1.2.9", "study_uid": "1.7", "patient": "A"}
    place = (*CENTRE[:2], CENTRE[2] + lift)
    write_ct_series(tmp_path, HU, prefix="A", **same)
    write_ct_series(tmp_path, HU + 7, prefix="B", centre=place, **same | other)
    found = find_ct_series(tmp_path)
    assert [len(one.slices) for one in found] == [len(HU)] * 2 and len({one.key for one in found}) == 2
    assert [float(np.ptp(read_series(one).hu - HU)) for one in found] == [0.0, 0.0]
    rows = discover(tmp_path)  # one folder is one patient, of several scans
    read = [read_volume(tmp_path.parent / tmp_path.name / ".." / tmp_path.name / ct) for ct in rows["ct"]]
    assert sorted(float(np.median(volume.hu - HU)) for volume in read) == [0.0, 7.0]


def test_two_patients_with_one_uid_are_two_patients_of_the_set(tmp_path):
    write(tmp_path / "src" / "a", patient="A", series_uid="1.2.9")
    write(tmp_path / "src" / "b", CHEST[::-1], patient="B", series_uid="1.2.9")
    manifest, _ = run(tmp_path / "src", tmp_path / "out", crop_box="whole", spacing="null")
    assert sorted(manifest["patient_raw"]) == ["A", "B"] and manifest["patient"].nunique() == 2


def test_a_slice_without_identifiers_stays_in_its_series(tmp_path):
    folder = write_ct_series(tmp_path, HU, series_uid="1.2.9", patient="A")
    edited(folder, PatientID=lambda i: "" if i % 3 else "A")
    assert shapes(folder) == [HU.shape]


@pytest.mark.parametrize(
    "values",
    [
        {"SeriesInstanceUID": None},
        {"SeriesInstanceUID": ""},
        {"SeriesInstanceUID": None, "StudyInstanceUID": None, "PatientID": ""},
        {"Modality": ""},
        {"Modality": None},
        {"SOPClassUID": None},
        {"SOPInstanceUID": "1.2.3"},
        {"SOPInstanceUID": None},
        {"SeriesInstanceUID": lambda i: f"1.2.3.{i}"},
        {"SeriesInstanceUID": lambda i: f"1.2.3.{i}", "StudyInstanceUID": lambda i: f"1.2.4.{i}"},
    ],
)
def test_missing_and_senseless_identifiers_leave_one_ct(tmp_path, values):
    folder = edited(write_ct_series(tmp_path / "scan", HU), **values)
    assert shapes(folder) == [HU.shape]
    assert len(discover(tmp_path)) == 1 and np.abs(read_volume(folder).hu - HU).max() <= 1


def test_a_uid_for_each_slice_in_a_folder_for_each_slice(tmp_path):
    folder = edited(write_ct_series(tmp_path / "in", HU), SeriesInstanceUID=lambda i: f"1.2.3.{i}")
    for i, path in enumerate(sorted(folder.iterdir())):
        (tmp_path / "out" / f"{i}").mkdir(parents=True)
        path.rename(tmp_path / "out" / f"{i}" / "1.dcm")
    assert shapes(tmp_path / "out") == [HU.shape]


def test_single_slices_that_make_no_even_stack_stay_apart(tmp_path):
    write_ct_series(tmp_path, HU, skip=(2, 3, 6, 7, 8))
    edited(tmp_path, SeriesInstanceUID=lambda i: f"1.2.3.{i}")
    assert {one.dropped for one in find_ct_series(tmp_path)} == {"1 slices are too few for a volume"}


def test_scans_without_uid_in_two_folders_are_two(tmp_path):
    for name in "ab":
        edited(write_ct_series(tmp_path / name, HU), SeriesInstanceUID=None, StudyInstanceUID="1.7")
    found = find_ct_series(tmp_path)
    assert [len(one.slices) for one in found] == [len(HU)] * 2 and len({one.key for one in found}) == 2


@pytest.mark.parametrize("digit", [1e-4, 3e-4])
def test_orientation_and_spacing_may_differ_in_the_last_digits(tmp_path, digit):
    folder = write_ct_series(tmp_path, HU)
    rng = np.random.default_rng(0)
    noise = [(digit * rng.uniform(-1, 1), digit * rng.uniform(-1, 1)) for _ in HU]
    edited(
        folder,
        PixelSpacing=lambda i: [SPACING[1] * (1 + noise[i][0]), SPACING[2]],
        ImageOrientationPatient=lambda i: [1, noise[i][1], 0, -noise[i][1], 1, 0],
    )
    assert shapes(folder) == [HU.shape]


def test_a_key_that_no_series_has_is_refused_with_those_found(tmp_path):
    write_ct_series(tmp_path, HU, series_uid="1.2.9")
    with pytest.raises(UserError, match=r"no series 1\.2\.8; found 1\.2\.9"):
        read_volume(f"{tmp_path}#1.2.8")
