"""Folders that mean something by convention: masks, splits, containers; and ids that stay different."""

from pathlib import Path, PurePosixPath

import pytest
from chest_files import save_nifti, thorax
from dicom_files import write_ct_series
from folder_sources import film, source
from prepare_runs import run

from common.errors import UserError
from dataset.io.ct import read_volume
from dataset.io.paths import split_series
from dataset.manifest.separated import join, parts
from dataset.manifest.table import LONGEST_ID
from dataset.sources.folder_scan import discover
from dataset.sources.layouts import is_mask, places_of, unique_ids

HU = thorax(size=(6, 8, 10))


def tree(root: Path, *names: str) -> Path:
    for seed, name in enumerate(names):
        save_nifti(root / name, thorax(size=(6, 8, 10), seed=seed))
    return root


def patients(root, *names):
    """Path of each CT -> patient."""
    rows = discover(tree(root, *names))
    return dict(zip(rows["ct"], rows["patient"], strict=True))


@pytest.mark.parametrize(
    "name",
    ["s1/segmentations/lung.nii.gz", "labelsTr/a.nii.gz", "p/masks/x.nii", "p/ct_seg.nii",
     "p/ct-label.nii", "a_mask.nii", "mask.nii.gz", "p/label.nii.gz", "p/segmentation.nii", "p/seg.nii.gz",
     "p/labels.nii", "lung_masks.nii.gz", "p/ct.segmentations.nii"],
)  # fmt: skip
def test_masks_are_left_out_with_one_line(tmp_path, caplog, name):
    assert is_mask(PurePosixPath(name))
    assert set(patients(tmp_path, "s1/ct.nii.gz", "s2/ct.nii.gz", name)) == {"s1/ct.nii.gz", "s2/ct.nii.gz"}
    assert f"1 masks are left out, such as {name}" in caplog.text


@pytest.mark.parametrize(
    "name",
    ["ct.nii.gz", "lung_001_0000.nii.gz", "segment.nii", "unlabeled/a.nii", "maskell/1.nii", "unmasked.nii",
     "ct_unlabeled.nii", "mask_free.nii"],
)  # fmt: skip
def test_a_ct_is_no_mask(name):
    assert not is_mask(PurePosixPath(name))


def test_only_masks_are_no_data_set(tmp_path):
    with pytest.raises(UserError, match="neither a file nor a DICOM series"):
        discover(tree(tmp_path, "labelsTr/a.nii.gz"))


@pytest.mark.parametrize("folder", ["imagesTr", "images", "CT", "scans"])
def test_a_folder_of_many_patients_is_no_patient(tmp_path, folder):
    found = patients(tmp_path, *(f"{folder}/p{i}.nii.gz" for i in range(3)), "other/p9.nii.gz")
    assert len(set(found.values())) == 4
    found = patients(tmp_path / "b", *(f"{folder}/p{i}/{k}.nii.gz" for i in range(2) for k in "xy"), "other/z.nii.gz")
    assert len(set(found.values())) == 3


@pytest.mark.parametrize("train, val, test", [("train", "val", "test"), ("Training", "valid_fixed", "testing_set")])
def test_folders_of_splits_are_splits(tmp_path, train, val, test):
    names = [f"{train}/{i}/{k}.nii.gz" for i in range(3) for k in "ab"] + [f"{val}/v.nii.gz", f"{test}/0/a.nii.gz"]
    rows = source(tree(tmp_path / "set", *names)).rows
    assert dict(zip(rows["ct"].str.partition("/")[0], rows["split"], strict=True)) == {
        train: "train",
        val: "val",
        test: "test",
    }
    assert rows["patient"].nunique() == 5  # 0 of train and 0 of test are two


def test_without_a_folder_for_validation_training_patients_validate(tmp_path):
    names = [f"train/{i}.nii.gz" for i in range(5)] + ["test/t.nii.gz"]
    rows = discover(tree(tmp_path, *names)).set_index("ct")["split"]
    assert rows["test/t.nii.gz"] == "test"
    assert sorted(rows.drop("test/t.nii.gz")) == ["train"] * 4 + ["val"]


def test_validation_takes_whole_patients_of_many_folders_where_every_id_counts():
    """As in preparation, where a patient is a Patient ID."""
    ids = ["P-7" if i % 2 else f"Q-{i}" for i in range(40)]
    paths = [PurePosixPath(f"train/a{i}/s") for i in range(40)] + [PurePosixPath("test/t/s")]
    splits = [place.split for place in places_of(paths, [*ids, "R-1"], every_id=True)]
    assert len({split for split, number in zip(splits, ids, strict=False) if number == "P-7"}) == 1
    assert splits.count("val") in (2, 21) and splits[-1] == "test"
    loose = [place.split for place in places_of(paths, [*ids, "R-1"])]
    assert loose.count("val") == 4


def test_one_folder_of_a_split_s_name_is_none(tmp_path):
    assert set(discover(tree(tmp_path / "a", "test/1.nii", "test/2.nii"))["split"]) == {""}
    assert set(discover(tree(tmp_path / "b", "val/1.nii", "test/2.nii"))["split"]) == {""}


def test_splits_of_dicom_and_nifti_reach_a_prepared_set(tmp_path):
    for seed, split in enumerate(("train", "val", "test")):
        folder = tmp_path / "src" / split
        write_ct_series(folder / "s", thorax(seed=seed), patient=f"P-{split}", series_uid=f"1.2.{seed}")
        save_nifti(folder / f"n{split}.nii.gz", thorax(seed=seed + 5))
    manifest, _ = run(tmp_path / "src", tmp_path / "out", crop_box="whole", spacing="null", min_vessel_hu="null")
    found = dict(zip(manifest["patient_raw"], manifest["split"], strict=True))
    assert found == {name: name.removeprefix("P-").removeprefix("n") for name in found} and len(found) == 6


@pytest.mark.parametrize("prefix", ["", "dataset/{split}_fixed/{split}_{i}/{split}_{i}_a/"])
def test_reconstructions_of_ct_rate_are_of_one_patient_and_its_split_counts(tmp_path, prefix):
    names = [
        f"{prefix.format(split=split, i=i)}{split}_{i}_{scan}_{k}.nii.gz"
        for split in ("train", "valid") for i in (1, 2) for scan in "ab" for k in (1, 2)
    ]  # fmt: skip
    rows = discover(tree(tmp_path, *names))
    assert set(zip(rows["patient"], rows["split"], strict=True)) == {
        ("train_1", "train"), ("train_2", "train"), ("valid_1", "val"), ("valid_2", "val")}  # fmt: skip
    alone = discover(
        tree(tmp_path / "x", "train_7/train_7_a/train_7_a_1.nii.gz", "train_7/train_7_a/train_7_a_2.nii.gz")
    )
    assert set(alone["patient"]) == {"train_7"} and set(alone["split"]) == {""}


NAMES = [
    "患者一",
    "患者二",
    "Müller",
    "Möller",
    "p 1",
    "p_1",
    "P_1",
    "müller",
    "Иванов",
    "Zoë",
    "Zoé",
    "a.b",
    "é",
    "e",
]


def test_ids_stay_different_in_any_script_and_the_same_in_every_run():
    ids = unique_ids(NAMES, NAMES)
    assert len({one.lower() for one in ids}) == len(NAMES) and ids == unique_ids(NAMES, NAMES)
    assert all(one.isascii() and " " not in one for one in ids)
    assert ids[NAMES.index("a.b")] == "a.b" and ids[NAMES.index("e")] == "e"
    more = unique_ids([*NAMES, "Mäller"], [*NAMES, "Mäller"])
    assert more[:-1] == ids  # another patient changes no id
    assert unique_ids(["Zoë"], ["Zoe\u0308"]) == unique_ids(["Zoë"], ["Zo\u00eb"])  # as macOS and Linux write it


def test_a_long_path_is_cut_to_an_id_that_names_files():
    names = ["a/" * 100 + end for end in "xy"]
    ids = unique_ids(names, names)
    assert len(set(ids)) == 2 and all(len(one) <= LONGEST_ID for one in ids)


def test_every_name_is_a_case_of_its_own(tmp_path):
    names = [f"{name}.nii.gz" for name in NAMES] + ["one.nii", "one.nii.gz"]
    rows = source(tree(tmp_path / "set", *names)).rows
    assert rows["id"].nunique() == rows["patient"].nunique() == len(names)
    folders = tree(
        tmp_path / "folders", *(f"{name}/{k}.nii" for name in ("Müller", "Möller", "p 1", "p_1") for k in "ab")
    )
    assert discover(folders)["patient"].nunique() == 4


@pytest.mark.parametrize("name", ["scan#1.nii.gz", "p#1/ct.nii.gz", "a;b.nii.gz", "a#b;c.nii.gz", 'say "x";.nii.gz'])
def test_separators_in_names(tmp_path, name):
    root = tree(tmp_path / "set", name, "z.nii.gz")
    film((root / name).with_name(Path(name).name.replace(".nii.gz", ".png")))
    made = source(root)
    row = next(row for row in made.rows.to_dict("records") if row["ct"] == name)
    assert parts(row["xray"]) == [name.replace(".nii.gz", ".png")]
    assert made.build(row)["xray"].shape[0] == 1 and made.key(row)


def test_series_of_a_folder_with_a_mark_in_its_name(tmp_path):
    for uid in ("1.2.3", "1.2.4"):
        write_ct_series(tmp_path / "p#1", HU, series_uid=uid, prefix=uid)
    assert split_series(f"{tmp_path}/p#1#1.2.3") == (tmp_path / "p#1", "1.2.3")
    for ct in discover(tmp_path)["ct"]:
        assert read_volume(tmp_path / ct).hu.shape == HU.shape


@pytest.mark.parametrize("names", [["a"], ["a;b", "c"], ['q"x', "y"], ["a, b", "c d"], []])
def test_names_of_a_case_round_trip(names):
    assert parts(join(names)) == names
