"""The preparation and the scan of a folder use the same DICOM endings."""

import pytest
from chest_files import thorax
from dicom_files import write_ct_series

from dataset.io.dicom_headers import DICOM_ENDINGS
from dataset.io.dicom_series import find_ct_series
from dataset.sources.folder_scan import discover


@pytest.mark.parametrize("ending", DICOM_ENDINGS)
def test_every_ending_is_found_by_both(tmp_path, ending):
    for path in write_ct_series(tmp_path / "scan", thorax(size=(6, 8, 10))).iterdir():
        path.rename(path.with_suffix(ending))
    assert len(find_ct_series(tmp_path)) == len(discover(tmp_path)) == 1
