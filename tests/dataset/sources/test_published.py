"""Published data sets are read in their own layout: splits, folds, patients, X-rays; nobody is in two splits."""

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from chest_files import save_nifti, save_x2ct, thorax
from folder_sources import source

from dataset.imaging.drr import render_xray
from dataset.io.volume_files import X2CT_POSES
from dataset.sources.folder_scan import discover

HU = thorax(size=(16, 16, 16))
CASES = [f"LIDC-IDRI-{number:04d}.20000101.{number}.1" for number in (1, 2, 3, 4, 5, 6)]


def x2ct(root, cases=CASES, train=CASES[:4], test=CASES[4:]):
    """X2CT-GAN's tree `data/LIDC-HDF5-256/<case>/ct_xray_data.h5` with its lists beside the folder of cases."""
    poses = torch.tensor(list(X2CT_POSES.values()))
    for seed, case in enumerate(cases):
        hu = np.maximum(thorax(size=(16, 16, 16), seed=seed), -1024)
        views = render_xray(torch.from_numpy(hu).float(), (20.0,) * 3, poses, (64, 64))
        grey = {f"xray{i + 1}": (255 * view).round().to(torch.uint8).numpy() for i, view in enumerate(views)}
        save_x2ct(root / "LIDC-HDF5-256" / case / "ct_xray_data.h5", hu, **grey)
    for name, listed in (("train", train), ("test", test)):
        if listed is not None:
            (root / f"{name}.txt").write_text("\n".join(listed) + "\n")
    return root


def test_x2ct_honours_the_lists_from_either_folder(tmp_path):
    root = x2ct(tmp_path / "data")
    for folder in (root, root / "LIDC-HDF5-256"):
        rows = discover(folder).set_index("id")
        assert sorted(rows.index) == CASES
        assert set(rows.index[rows["split"] == "test"]) == set(CASES[4:])
        assert (rows["split"] == "val").sum() == 1 and (rows["split"] == "train").sum() == 3
        assert (rows["view"] == "PA;lateral").all() and (rows["xray"].str.count("#xray") == 2).all()


def test_a_patient_of_both_lists_is_a_test_patient_and_unlisted_cases_are_left_out(tmp_path, caplog):
    """LIDC-IDRI-0442 is in both of the published lists."""
    again = CASES[4].replace(".5.1", ".9.1")
    rows = discover(x2ct(tmp_path, [*CASES, again], train=[*CASES[1:4], again]))
    assert sorted(rows["id"]) == CASES[1:] and "1 training cases of test patients" in caplog.text
    assert "1 cases in neither list" in caplog.text
    assert set(rows["patient"][rows["split"] == "test"]) == {"LIDC-IDRI-0005", "LIDC-IDRI-0006"}


def test_without_lists_one_line_says_where_they_come_from(tmp_path, caplog):
    rows = discover(x2ct(tmp_path, train=None, test=None))
    assert (rows["split"] == "").all()
    assert len(caplog.records) == 1 and "github.com/kylekma/X2CT" in caplog.text


def test_the_poses_of_x2ct_project_its_volume_onto_its_xrays(tmp_path):
    """A case is rendered again from its own CT and poses; the views are not interchanged or mirrored."""
    reader = source(x2ct(tmp_path / "data"), views=2, volume_size=(16, 16, 16), xray_size=(64, 64))
    case = reader.build(reader.rows.iloc[0].to_dict())
    assert case["spacing"].tolist() == [20.0] * 3 and not case["pose"].isnan().any()
    assert reader.forward_model() is None  # of another renderer, although the poses are known
    views = render_xray(case["ct"].float(), (20.0,) * 3, case["pose"], (64, 64))

    def alike(a, b):
        return np.corrcoef(a.flatten(), b.flatten())[0, 1]

    for view, other, xray in zip(views, views.flip(0), case["xray"].float(), strict=True):
        assert alike(view, xray) > 0.99
        assert alike(view, xray) > max(alike(view.flip(1), xray), alike(view.flip(0), xray), alike(other, xray)) + 0.01


def test_rad_chestct_takes_split_from_the_name_and_patients_from_its_table(tmp_path, caplog):
    names = ["trn00001", "trn00002", "val00003", "tst00004"]
    for name in names:
        np.savez(tmp_path / f"{name}.npz", ct=HU.clip(-1000, 1000)[::-1])
    rows = discover(tmp_path).set_index("id")
    assert dict(rows["split"]) == dict(zip(names, ["train", "train", "val", "test"], strict=True))
    assert rows["patient"].is_unique and "each scan is a patient" in caplog.text
    table = "NoteAcc_DEID,MRN_DEID\n" + "".join(f"{n},P{i // 2}\n" for i, n in enumerate(names))
    (tmp_path / "CT_Scan_Metadata_Complete_35747.csv").write_text(table)
    assert list(discover(tmp_path).sort_values("id")["patient"]) == ["P0", "P0", "P1", "P1"]


def test_luna16_subsets_are_folds_and_its_lung_masks_no_cts(tmp_path):
    for fold in range(3):
        for number in range(2):
            path = tmp_path / f"subset{fold}" / f"1.3.6.1.{fold}.{number}.mhd"
            path.parent.mkdir(exist_ok=True)
            sitk.WriteImage(sitk.GetImageFromArray(HU), str(path))
    (tmp_path / "seg-lungs-LUNA16").mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(HU), str(tmp_path / "seg-lungs-LUNA16" / "1.3.6.1.0.0.mhd"))
    rows = discover(tmp_path)
    assert len(rows) == 6 and rows["patient"].is_unique and list(rows["fold"]) == [0, 0, 1, 1, 2, 2]
    folds = source(tmp_path, n_folds=3, fold=1).rows
    assert {s: set(g["fold"]) for s, g in folds.groupby("split")} == {"test": {1}, "val": {2}, "train": {0}}


@pytest.mark.parametrize("separator", [",", ";"])
def test_totalsegmentator_takes_splits_from_its_table(tmp_path, separator):
    expected = {"s0000": "train", "s0001": "val", "s0002": "test"}
    for name in expected:
        save_nifti(tmp_path / name / "ct.nii.gz", HU)
        save_nifti(tmp_path / name / "segmentations" / "aorta.nii.gz", HU > 0)
    lines = [["image_id", "age", "split"], *([name, "50", split] for name, split in expected.items())]
    (tmp_path / "meta.csv").write_text("\n".join(separator.join(line) for line in lines))
    rows = discover(tmp_path)
    assert {ct.partition("/")[0]: split for ct, split in zip(rows["ct"], rows["split"], strict=True)} == expected
