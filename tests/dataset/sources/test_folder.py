"""A folder of CT volumes as a source: scan, pairs, splits, geometry and cache keys."""

import logging
import os

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from chest_files import CENTRE, save_nifti, thorax
from dicom_files import write_ct_series
from folder_sources import data_module, film, source
from phantom_sources import phantom_source
from scipy.ndimage import map_coordinates

from common.errors import UserError
from dataset.cases.store import prepare_cases, read_case, source_folder
from dataset.datamodule import CTDataModule
from dataset.imaging.coverage import NOT_SCANNED_HU
from dataset.imaging.drr import render_xray
from dataset.imaging.geometry import make_pose, project
from dataset.io.ct import read_volume
from dataset.manifest.table import write_manifest
from dataset.sources.folder import _stamp
from dataset.sources.folder_scan import discover


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data"


def test_finds_nifti_and_dicom_at_any_depth_with_their_xrays(root):
    save_nifti(root / "a.nii.gz", thorax())
    save_nifti(root / "deep" / "er" / "b.nii", thorax())
    write_ct_series(root / "d1" / "slices", thorax())
    write_ct_series(root / "xr", thorax(), modality="DX")  # no CT
    film(root / "a.png")
    film(root / "deep" / "er" / "b.JPG")
    film(root / "d1" / "slices.png")
    film(root / "deep" / "er" / "unrelated.png")
    rows = discover(root).set_index("ct")
    assert set(rows.index) == {"a.nii.gz", "deep/er/b.nii", "d1/slices"}
    assert rows["xray"].to_dict() == {
        "a.nii.gz": "a.png",
        "deep/er/b.nii": "deep/er/b.JPG",
        "d1/slices": "d1/slices.png",
    }
    assert (rows["xray_source"] == "film").all() and rows["patient"].nunique() == 3


def test_several_series_in_one_folder_are_several_cases(root):
    write_ct_series(root / "mixed", thorax(), series_uid="1.2.3")
    for path in (root / "mixed").iterdir():
        path.rename(path.with_name("first_" + path.name))
    write_ct_series(root / "mixed", thorax(seed=1), series_uid="1.2.4")
    assert sorted(discover(root)["ct"]) == ["mixed#1.2.3", "mixed#1.2.4"]
    assert discover(root)["patient"].nunique() == 1  # one folder, one patient
    for path in prepare_cases(source(root), root.parent / "cache", 0):
        assert read_case(path)["ct"].shape == (12, 12, 12)


def test_folders_with_several_volumes_are_patients_and_ids_are_plain(root, caplog):
    for name in ("p1/t0.nii.gz", "p1/t1.nii.gz", "p2/t0.nii.gz", "p3/odd name=[1],(2).nii.gz"):
        save_nifti(root / "cts" / name, thorax())
    rows = discover(root)
    assert rows["id"].is_unique and rows["id"].str.fullmatch(r"[A-Za-z0-9._-]+").all()
    assert rows["patient"].nunique() == 3 and "one patient each" in caplog.text


def test_a_case_keeps_hu_geometry_and_orientation(root):
    hu = thorax((24, 24, 24))
    save_nifti(root / "a.nii.gz", hu, axcodes="RAS")
    made = source(root, volume_size=(24, 24, 24))
    case = read_case(prepare_cases(made, root.parent / "cache", 0)[0])
    np.testing.assert_allclose(case["ct"], hu, atol=1.0)
    np.testing.assert_allclose(case["centre"], CENTRE, atol=1e-3)
    extent = (24 * 6.0, 24 * 5.0, 24 * 4.5)
    torch.testing.assert_close(case["pose"][0], make_pose(extent))
    expected = render_xray(torch.from_numpy(hu).float(), (6.0, 5.0, 4.5), case["pose"], (24, 24))
    torch.testing.assert_close(case["xray"].float(), expected, atol=2e-3, rtol=0)
    row = case["xray"][0].float()[10]
    assert row[4:12].mean() < row[12:20].mean()  # the heart is on the right of the image


def test_the_xray_does_not_depend_on_the_window(root):
    save_nifti(root / "a.nii.gz", thorax())
    wide = source(root, window="wide")
    narrow = source(root, window="ctpa")
    assert wide.key(wide.rows.iloc[0]) == narrow.key(narrow.rows.iloc[0])


def test_cropping_moves_the_pose_with_the_centre(root):
    hu = np.full((21, 24, 28), -1000, dtype=np.int16)
    hu[10, 11, 12] = 1000
    hu[2:4] = 40
    save_nifti(root / "a.nii.gz", hu)
    made = source(root, volume_size=(15, 15, 15), spacing=(6.0, 5.0, 4.5))
    case = read_case(prepare_cases(made, root.parent / "cache", 0)[0])
    found = (case["ct"] == case["ct"][4:].max()).nonzero()[0]
    grid = torch.tensor([15.0, 15.0, 15.0])
    inside = (found + 0.5 - grid / 2) * case["spacing"]
    before = (torch.tensor([10.5, 11.5, 12.5]) - torch.tensor([21.0, 24.0, 28.0]) / 2) * case["spacing"]
    whole = make_pose((21 * 6.0, 24 * 5.0, 28 * 4.5))
    torch.testing.assert_close(project(inside, case["pose"][0]), project(before, whole), atol=1e-4, rtol=0)


def test_an_xray_file_is_used_unchanged_and_has_no_pose(root):
    save_nifti(root / "a.nii.gz", thorax())
    film(root / "a.png")
    case = read_case(prepare_cases(source(root), root.parent / "cache", 0)[0])
    assert case["pose"].isnan().all()
    columns = case["xray"][0].float().mean(dim=0)
    assert (columns.diff() >= 0).all() and columns[-1] > 0.9
    with pytest.raises(UserError, match="dataset.views=2"):
        prepare_cases(source(root, views=2), root.parent / "cache", 0)


def test_two_views_are_frontal_and_lateral(root):
    save_nifti(root / "a.nii.gz", thorax())
    case = read_case(prepare_cases(source(root, views=2), root.parent / "cache", 0)[0])
    assert case["xray"].shape == (2, 24, 24) and case["pose"][:, 2].tolist() == [0.0, 90.0]
    assert (case["xray"][0] - case["xray"][1]).abs().max() > 0.2


def test_a_changed_file_or_setting_is_prepared_again(root):
    save_nifti(root / "a.nii.gz", thorax())
    cache = root.parent / "cache"
    first = prepare_cases(source(root), cache, 0)
    assert prepare_cases(source(root), cache, 0) == first
    for change in ({"volume_size": (12, 12, 14)}, {"spacing": (9.0, 9.0, 9.0)}, {"xray_size": (24, 26)}, {"views": 2}):
        assert prepare_cases(source(root, **change), cache, 0) != first
    save_nifti(root / "a.nii.gz", thorax(seed=1))
    os.utime(root / "a.nii.gz", (1, 1))
    second = prepare_cases(source(root), cache, 0)
    assert second != first and not torch.equal(read_case(second[0])["ct"], read_case(first[0])["ct"])


def test_a_changed_dicom_slice_is_noticed(root):
    folder = write_ct_series(root / "s", thorax())
    made = source(root)
    before = made.key(made.rows.iloc[0])
    os.utime(sorted(folder.iterdir())[4], (1, 1))
    assert made.key(made.rows.iloc[0]) != before


def test_a_changed_data_file_beside_its_header_is_noticed(root):
    sitk.WriteImage(sitk.ReadImage(str(save_nifti(root / "a.nii", thorax()))), str(root / "a.mhd"))
    made = source(root)
    rows = made.rows.set_index("ct", drop=False)
    before = rows.apply(made.key, axis=1)
    os.utime(root / "a.raw", (1, 1))
    assert (rows.apply(made.key, axis=1) != before).to_dict() == {"a.nii": False, "a.mhd": True}
    stat = (root / "a.nii").stat()
    assert _stamp(root, "a.nii") == ["a.nii", [("a.nii", stat.st_size, stat.st_mtime_ns)]]  # as in existing caches


def test_patients_keep_their_split_when_the_folder_grows(root):
    for i in range(10):
        save_nifti(root / f"v{i}.nii", thorax((8, 8, 8)))
    made = source(root, volume_size=(8, 8, 8))
    data = CTDataModule(made, cache_dir=root.parent / "cache", prepare_workers=0)
    data.prepare_data()
    assert data.manifest_path == source_folder(made, root.parent / "cache") / "manifest.csv"
    before = made.rows.set_index("id")["split"]
    assert before.value_counts().to_dict() == {"train": 8, "val": 1, "test": 1}
    for i in range(10):
        save_nifti(root / f"u{i}.nii", thorax((8, 8, 8)))
    after = source(root, volume_size=(8, 8, 8)).rows.set_index("id")["split"]
    assert after.loc[before.index].tolist() == before.tolist() and len(after) == 20


def test_one_volume_trains_with_a_warning_that_validation_repeats_it(root, caplog):
    save_nifti(root / "only.nii.gz", thorax())
    data = CTDataModule(source(root), num_batches=2, cache_dir=root.parent / "cache", prepare_workers=0)
    with caplog.at_level(logging.WARNING):
        data.prepare_data()
        data.setup()
    assert "validation repeats" in caplog.text
    batch, validation = next(iter(data.train_dataloader())), next(iter(data.val_dataloader()))
    assert batch["id"] == validation["id"] == ["only"] and batch["label"].tolist() == [-1]
    assert data.protocol()["spacing"] == [10.0, 10.0, 10.5] and "root" not in str(data.protocol())


def test_a_manifest_in_the_folder_rules(root):
    save_nifti(root / "x" / "a.nii.gz", thorax())
    save_nifti(root / "x" / "b.nii.gz", thorax(seed=1))
    film(root / "films" / "f.png")
    (root / "manifest.csv").write_text(
        "id,patient,ct,xray,label,split\nA,1,x/a.nii.gz,films/f.png,1,test\nB,2,x/b.nii.gz,,0,train\n"
    )
    made = source(root, require_manifest=True)
    assert made.rows.set_index("id")["split"].to_dict() == {"A": "test", "B": "train"}
    cases = dict(zip(made.rows["id"], prepare_cases(made, root.parent / "cache", 0), strict=True))
    assert read_case(cases["A"])["pose"].isnan().all() and not read_case(cases["B"])["pose"].isnan().any()


def test_what_is_missing_is_a_phrase_each(root):
    assert source().missing()[0].startswith("dataset.root_dir (")
    assert "no such folder" in source(root).missing()[0]
    root.mkdir()
    assert source(root).missing() == []
    assert "manifest.csv" in source(root, require_manifest=True).missing()[0]
    with pytest.raises(UserError, match="dataset.root_dir.*label"):
        _ = source(require_manifest=True).rows
    with pytest.raises(UserError, match="neither a file nor a DICOM series"):
        _ = source(root).rows
    (root / "manifest.csv").write_text("id,patient,ct\n1,1,none.nii.gz\n")
    with pytest.raises(UserError, match="row 2, ct=none.nii.gz: no such file"):
        _ = source(root).rows


def test_the_error_names_an_unusable_volume(root):
    save_nifti(root / "good.nii.gz", thorax())
    save_nifti(root / "zbad.nii.gz", thorax())
    (root / "zbad.nii.gz").write_bytes((root / "zbad.nii.gz").read_bytes()[:-500])
    with pytest.raises(UserError, match="zbad.nii.gz: damaged"):
        prepare_cases(source(root), root.parent / "cache", 0)
    assert len(list((root.parent / "cache").rglob("good-*.safetensors"))) == 1


def test_a_volume_outside_the_window_is_refused(root):
    save_nifti(root / "a.nii.gz", np.where(thorax() > -500, -800, -1000))
    with pytest.raises(UserError, match=r"no HU in range.*dataset.window=\[-200, 500\]"):
        prepare_cases(source(root, window="ctpa"), root.parent / "cache", 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"volume_size": [8, 8]},
        {"volume_size": [8, 8, 0]},
        {"volume_size": 8},
        {"spacing": [1.0, -2.0, 1.0]},
        {"xray_size": [64]},
        {"views": 0},
    ],
)
@pytest.mark.parametrize("kind", [source, phantom_source])
def test_a_wrong_size_names_its_key(kind, wrong):
    if kind is phantom_source and "spacing" in wrong:
        pytest.skip("phantoms are drawn by extent")
    with pytest.raises(UserError, match=f"dataset.{next(iter(wrong))}="):
        kind(**wrong)


def test_a_written_manifest_can_be_the_next_input(root):
    save_nifti(root / "a.nii.gz", thorax())
    rows = source(root).rows
    write_manifest(rows, root / "manifest.csv")
    assert source(root, require_manifest=True).rows["split"].tolist() == rows["split"].tolist()


def test_real_volumes_are_chests_the_right_way_round(real_data, tmp_path):
    made = source(real_data / "ct", volume_size=(32, 32, 32), cache_dir=tmp_path)
    whole = ("lidc-idri-0001", "rider-lung", "lung-pet", "cip")  # not cut above or below the lungs
    made.rows = made.rows[made.rows["id"].str.startswith(whole)]
    for path in prepare_cases(made, tmp_path, 0):
        ct = read_case(path)["ct"].float()
        assert ct.min() < -900 and ct.max() > 200
        bone = (ct > 200).float().mean(dim=(0, 2))
        assert bone[20:28].sum() > bone[4:12].sum()  # the spine is at the back
        lung = (ct[:, 8:24] < -600).float().mean(dim=(1, 2))
        assert lung[20:28].mean() > lung[:4].mean()  # lungs above the abdomen
        # In the front half, at the height of the heart, soft tissue reaches further to the left of the spine.
        spine = (ct[8:20, 20:28] > 150).float().sum(dim=(0, 1)) @ torch.arange(32.0)
        spine = spine / (ct[8:20, 20:28] > 150).sum()
        heart = (ct[10:17, 9:16, 7:25] > -300).float().sum(dim=(0, 1))
        heart = heart @ torch.arange(7.0, 25.0) / heart.sum()
        if path.name.startswith(("rider", "cip")):  # the two where neither disease nor diaphragm hides it
            assert heart > spine + 0.5


def test_real_dicom_and_nifti_of_one_patient_agree(real_data):
    nifti = read_volume(real_data / "ct" / "lung-pet-ct-dx-a0002_ct.nii.gz")
    dicom = read_volume(real_data / "dicom" / "Lung_Dx-A0002")
    right, front, up = np.subtract(nifti.centre, dicom.centre)
    offset = (up, -front, -right)  # D, H, W
    axes = [
        ((np.arange(0, n, 3) - (n - 1) / 2) * s + o) / t + (m - 1) / 2
        for n, s, o, t, m in zip(nifti.hu.shape, nifti.spacing, offset, dicom.spacing, dicom.hu.shape, strict=True)
    ]
    there = map_coordinates(dicom.hu, np.meshgrid(*axes, indexing="ij"), order=1, mode="nearest")
    here = nifti.hu[::3, ::3, ::3]
    assert np.corrcoef(there.ravel(), here.ravel())[0, 1] > 0.97
    assert np.corrcoef(there.ravel(), here[:, :, ::-1].ravel())[0, 1] < 0.9


def test_a_patient_in_two_splits_is_refused(root):
    for name in ("a.nii", "b.nii"):
        save_nifti(root / name, thorax((8, 8, 8)))
    (root / "manifest.csv").write_text("id,patient,ct,split\nA,1,a.nii,train\nB,1,b.nii,test\n")
    with pytest.raises(UserError, match="patient 1 is in test and train"):
        _ = source(root).rows


def test_folds_replace_the_splits_and_keep_the_prepared_cases(root):
    for i in range(6):
        save_nifti(root / f"v{i}.nii", thorax((8, 8, 8)))
    options = {"volume_size": (8, 8, 8), "n_folds": 3}
    tested, cases = [], set()
    for fold in range(3):
        made = source(root, fold=fold, **options)
        data = data_module(made, root.parent / "cache")
        tested += data.test.rows["id"].tolist()
        cases |= set(data.test.paths)
        assert data.manifest_path.name == f"manifest_fold_{fold}_of_3.csv" and data.protocol()["fold"] == fold
    assert sorted(tested) == [f"v{i}" for i in range(6)] and len(cases) == 6
    before = made.rows.set_index("id")["fold"]
    save_nifti(root / "u.nii", thorax((8, 8, 8)))
    after = source(root, fold=0, **options).rows.set_index("id")["fold"]
    assert after[before.index].tolist() == before.tolist()


def test_given_patients_are_test_and_validation(root):
    for name in "abcde":
        save_nifti(root / f"{name}.nii", thorax())
    given = source(root, test_patients=["b"], val_patients=["d"])
    assert given.rows.set_index("patient")["split"].to_dict() == {
        **dict.fromkeys("ace", "train"),
        "b": "test",
        "d": "val",
    }
    assert given.manifest != source(root).manifest != source(root, test_patients=["c"]).manifest
    assert given.home() == source(root).home()  # folds share their cases
    for wrong, message in (
        ({"test_patients": ["z"]}, "dataset.test_patients: no patient z; choose from a, b, c, d, e"),
        ({"test_patients": ["a"], "val_patients": ["a"]}, "both name a"),
        ({"test_patients": ["a"], "n_folds": 5}, "dataset.n_folds=5: leave it out"),
    ):
        with pytest.raises(UserError, match=message):
            _ = source(root, **wrong).rows


def test_the_shipped_chests_are_a_data_set():
    folder = source(None, root_dir="repository:/assets/chests", require_manifest=True)
    assert len(folder.rows) == 7 and folder.rows["patient"].nunique() == 7
    case = folder.build(folder.rows.iloc[0].to_dict())
    assert (case["ct"] == NOT_SCANNED_HU).any() and not case["lung_box"].isnan().any()
