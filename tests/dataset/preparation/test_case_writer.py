"""The state of a case changes with every file and setting that its files depend on."""

import os
from pathlib import Path

import pytest
import SimpleITK as sitk
from chest_files import save_nifti, thorax
from prepare_runs import configured, run, write

from common.errors import UserError
from dataset.io.ct import read_volume
from dataset.io.dicom_headers import Identity
from dataset.io.dicom_series import CtSeries
from dataset.io.nifti import write_nifti
from dataset.preparation import case_writer
from dataset.preparation.case_writer import CropSettings, Settings, state_of
from dataset.preparation.options import prepare_set
from dataset.preparation.plan import Task

SETTINGS = Settings(
    Path("out"), CropSettings("whole", 0.0, 0.0, "threshold", None), None, None, None, "drr", True, True
)


@pytest.mark.parametrize("header", ["a.mhd", "a.nhdr"])
def test_the_state_covers_the_data_file_beside_a_header(tmp_path, header):
    image = sitk.ReadImage(str(save_nifti(tmp_path / "a.nii", thorax((6, 8, 10)))))
    sitk.WriteImage(image, str(tmp_path / header))
    series = CtSeries([tmp_path / header], Identity("A", series_uid=header))
    task = Task("id", "A", series, None, "", float("nan"), -1, "", [])
    before = state_of(task, SETTINGS)
    assert state_of(task, SETTINGS) == before
    os.utime(tmp_path / "a.raw", (1, 1))
    assert state_of(task, SETTINGS) != before


def test_a_run_that_is_killed_leaves_no_record_beside_other_files(tmp_path, monkeypatch):
    write(tmp_path / "in", patient="A")
    places = tmp_path / "in", tmp_path / "out"
    run(*places, spacing="[6,6,6]")

    def killed(path, *arguments):
        write_nifti(path, *arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(case_writer, "write_nifti", killed)
    with pytest.raises(KeyboardInterrupt):
        run(*places, spacing="[5,5,5]")
    monkeypatch.undo()
    assert not list((tmp_path / "out" / "cases").iterdir())
    outcome, _ = prepare_set(configured(*places, spacing="[6,6,6]"))
    assert outcome.kept == 0 and [row["spacing"] for row in outcome.rows] == ["6 6 6"]
    (volume,) = (tmp_path / "out" / "ct").iterdir()
    assert read_volume(volume).spacing == pytest.approx((6.0, 6.0, 6.0))


def test_a_case_that_cannot_be_read_keeps_its_files_and_their_record(tmp_path):
    folder = write(tmp_path / "in", patient="A")
    places = tmp_path / "in", tmp_path / "out"
    run(*places, spacing="[6,6,6]")
    first = min(folder.iterdir())
    kept, times = first.read_bytes(), first.stat()
    first.write_bytes(kept[:400])
    with pytest.raises(UserError, match="no case could be prepared"):
        run(*places, spacing="[6,6,6]")
    first.write_bytes(kept)
    os.utime(first, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert prepare_set(configured(*places, spacing="[6,6,6]"))[0].kept == 1
