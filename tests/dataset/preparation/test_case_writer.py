"""The state of a case changes with every file and setting that its files depend on."""

import os
from pathlib import Path

import pytest
import SimpleITK as sitk
from chest_files import save_nifti, thorax

from dataset.io.dicom_headers import Identity
from dataset.io.dicom_series import CtSeries
from dataset.preparation.case_writer import CropSettings, Settings, state_of
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
