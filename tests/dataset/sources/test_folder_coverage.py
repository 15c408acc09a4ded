"""Volumes of a folder that cover different parts of the chest."""

import torch
from drawn_chest import chest
from folder_sources import data_module, source

from dataset.imaging.coverage import NOT_SCANNED_HU
from dataset.io.nifti import write_nifti


def chest_files(root, cut: int):
    """Two patients with tables; the scan of the second ends `cut` slices above that of the first."""
    volume = chest()
    for name, hu in (("whole", volume.hu), ("short", volume.hu[cut:])):
        write_nifti(root / f"{name}.nii.gz", hu, volume.spacing)


def test_patients_of_different_coverage_in_one_folder(tmp_path, caplog):
    chest_files(tmp_path / "in", cut=20)
    spacing = (10.0, 10.0, 10.0)
    folder = source(tmp_path / "in", volume_size=(30, 30, 36), spacing=spacing, remove_table=True, test_share=0.0)
    with caplog.at_level("INFO"):
        cases = {row["id"]: folder.build(row) for row in folder.rows.to_dict("records")}
    whole, short = cases["whole"]["ct"], cases["short"]["ct"]
    assert (
        (whole != NOT_SCANNED_HU).all() and "short.nii.gz: " in caplog.text and "not scanned, left out" in caplog.text
    )
    missing = (short == NOT_SCANNED_HU).all(dim=2).all(dim=1)
    assert 10 <= int(missing.sum()) <= 12 and not missing[6:24].any()  # 100 mm, half of them at each end
    assert int(whole.max()) < 450 and not (whole[:, 29:] > -500).any()  # no table
    data = data_module(folder, tmp_path / "cache")
    items = {item["id"]: item for item in (data.train[i] for i in range(len(data.train)))}
    items |= {item["id"]: item for item in (data.val[i] for i in range(len(data.val)))}
    assert items["whole"]["scanned"].all() and items["whole"]["scanned"].shape == (1, 30, 30, 36)
    torch.testing.assert_close(items["short"]["scanned"][0], short != NOT_SCANNED_HU)
    first = int((~missing).nonzero()[0])
    assert torch.equal(items["short"]["ct"][0, 0], items["short"]["ct"][0, first])


def test_a_ct_without_lungs_keeps_its_body(tmp_path):
    write_nifti(tmp_path / "in" / "a.nii.gz", chest(lungs=()).hu, (5.0, 3.5, 3.5))
    case = source(tmp_path / "in", remove_table=True).build({"id": "a", "ct": "a.nii.gz", "xray": "", "view": ""})
    assert case["lung_box"].isnan().all() and int(case["ct"].max()) > 0
