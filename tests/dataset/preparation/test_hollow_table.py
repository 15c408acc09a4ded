"""Air in a hollow table is no lung, for CTs of either format and for a folder that is read as it is."""

import numpy as np
import pytest
from chest_files import save_nifti
from dicom_files import write_ct_series
from drawn_chest import chest
from folder_sources import source
from prepare_runs import run

CHEST = chest()
HU = np.pad(np.rint(CHEST.hu[::2, ::2, ::2]).astype(np.int16), [(0, 0), (0, 16), (0, 0)], constant_values=-1000)
SPACING = tuple(2.0 * s for s in CHEST.spacing)


def on_a_table(hu):
    """The chest above a table of 4 cm with thin walls, as wide as the image allows, through all slices."""
    thick = max(4, round(40.0 / SPACING[1]))
    top, width = hu.shape[1] - thick - 3, hu.shape[2]
    made = hu.copy()
    made[:, top : top + thick, 2 : width - 2] = 60
    made[:, top + 1 : top + thick - 1, 3 : width - 3] = -990
    return made


def write(folder, hu, kind):
    if kind == "nifti":
        return save_nifti(folder / "ct.nii.gz", hu, SPACING)
    return write_ct_series(folder, hu, SPACING, thickness=1.0)


@pytest.mark.parametrize("kind", ["nifti", "dicom"])
@pytest.mark.parametrize("cut", [0.0, 0.3])
def test_the_crop_box_and_the_lungs_are_those_without_table(tmp_path, kind, cut):
    ends = slice(round(cut * len(HU)), len(HU) - round(cut * len(HU)))
    found = []
    for name, hu in (("plain", HU), ("table", on_a_table(HU))):
        write(tmp_path / name / "src", hu[ends], kind)
        options = {"spacing": "null", "min_vessel_hu": "null", "min_lung_ml": 300.0}
        found.append(run(tmp_path / name / "src", tmp_path / name / "out", **options)[1].iloc[0])
    assert found[0]["voi"] == found[1]["voi"] == "lungs" and found[0]["size"] == found[1]["size"]
    assert float(found[1]["lung_ml"]) == pytest.approx(float(found[0]["lung_ml"]), rel=0.02)


@pytest.mark.parametrize("kind", ["nifti", "dicom"])
def test_a_folder_read_as_it_is_has_no_table(tmp_path, kind):
    write(tmp_path / "set" / "p", on_a_table(HU), kind)
    made = source(tmp_path / "set", remove_table=True)
    (row,) = made.rows.to_dict("records")
    table = on_a_table(HU) != HU
    assert made.read(row).hu[table].max() <= -1000
