"""A patient keeps the split or fold of its CTs when the scan of a growing folder gives it another name."""

from pathlib import Path

import pytest
from chest_files import save_nifti, thorax
from folder_sources import source

from common.errors import UserError
from dataset.cases.store import source_folder
from dataset.manifest.table import write_manifest
from dataset.sources.settings import Files

HU = thorax((8, 8, 8))


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data"


def assigned(root, **options):
    """The rows of a folder by CT; the next run finds their manifest."""
    made = source(root, **options)
    write_manifest(made.rows, source_folder(made, root.parent / "cache") / made.manifest)
    return made.rows.set_index("ct")


def grow(root):
    for i in range(12):
        save_nifti(root / f"P{i:02d}" / f"scan_{i:02d}_2019.nii", HU)


@pytest.mark.parametrize(("column", "options"), [("split", {}), ("fold", {"n_folds": 3})])
def test_a_second_scan_of_a_patient_moves_none(root, column, options):
    grow(root)
    before = assigned(root, **options)
    assert before["patient"].nunique() == 12 and before[column].nunique() == 3
    again = [ct.partition("/")[0] for value in set(before[column]) for ct in before.index[before[column] == value][:2]]
    for folder in again:
        save_nifti(root / folder / "follow-up.nii", HU)
    after = assigned(root, **options)
    assert len(after) == 12 + len(again) and set(after["patient"]) >= {*again}
    assert (after.groupby("patient")[column].nunique() == 1).all()
    assert after.loc[before.index, column].tolist() == before[column].tolist()


def test_a_patient_named_by_its_path_keeps_its_split(root):
    for i in range(10):
        save_nifti(root / f"P{i}" / ("ct.nii" if i == 0 else f"{i}.nii"), HU)
    before = assigned(root, val_share=0.3, test_share=0.5)
    for i in range(10, 30):
        save_nifti(root / f"P{i}" / ("ct.nii" if i == 10 else f"{i}.nii"), HU)
    after = assigned(root, val_share=0.3, test_share=0.5)
    assert before.loc["P0/ct.nii", "patient"] == "ct" != after.loc["P0/ct.nii", "patient"]
    assert after.loc[before.index, "split"].tolist() == before["split"].tolist()


def given(root, names, **columns):
    """Writes the manifest.csv of a folder: patients by CT."""
    root.mkdir(exist_ok=True)
    for ct in names:
        (root / ct.partition("#")[0]).touch()
    rows = {"id": [f"c{i}" for i in range(len(names))], "patient": list(names.values()), "ct": list(names), **columns}
    lines = [",".join(rows), *(",".join(map(str, row)) for row in zip(*rows.values(), strict=True))]
    (root / "manifest.csv").write_text("\n".join(lines) + "\n")


def test_a_series_keeps_its_split_when_another_one_comes_into_its_folder_or_leaves_it(root):
    names = [f"s{i}" for i in range(9)]
    for name in names:
        (root / name).mkdir(parents=True)
    alone = {name: f"patient_{name}" for name in names}
    given(root, alone)
    before = assigned(root)["split"]
    held_out = [name for name in names if before[name] != "train"]
    two = {f"{name}#1.2.{k}": f"new_{name}" for name in held_out for k in (1, 2)}
    given(root, {**two, **{name: patient for name, patient in alone.items() if name not in held_out}})
    after = assigned(root)["split"]
    assert len(held_out) == 2 and all(after[f"{name}#1.2.{k}"] == before[name] for name in held_out for k in (1, 2))
    given(root, alone)
    assert assigned(root)["split"].to_dict() == before.to_dict()


def test_joined_patients_train_if_one_did(root, caplog):
    """Only then no model has trained on a patient that tests it."""
    names = {f"{i}.nii": f"p{i}" for i in range(10)}
    given(root, names)
    before = assigned(root)["split"]
    (train, *_), (val,), (test,) = (sorted(before.index[before == split]) for split in ("train", "val", "test"))
    given(root, {**names, train: "joined", test: "joined"})
    after = assigned(root)["split"]
    assert after[train] == after[test] == "train" and after.drop(test).equals(before.drop(test))
    assert "patient joined" in caplog.text and "test and train" in caplog.text


def test_joined_patients_validate_rather_than_test(root):
    names = {f"{i}.nii": f"p{i}" for i in range(10)}
    given(root, names)
    before = assigned(root)["split"]
    (val,), (test,) = (sorted(before.index[before == split]) for split in ("val", "test"))
    given(root, {**names, val: names[test]})  # the name of a patient stays
    assert assigned(root)["split"][[val, test]].tolist() == ["val", "val"]


def test_joined_patients_of_two_folds_are_an_error_unless_the_table_gives_their_fold(root):
    names = {f"{i}.nii": f"p{i}" for i in range(9)}
    given(root, names)
    before = assigned(root, n_folds=3)["fold"]
    one, two = before.index[before == 0][0], before.index[before == 2][0]
    joined = {**names, one: "joined", two: "joined"}
    given(root, joined)
    with pytest.raises(UserError, match="patient joined .* folds 0 and 2, .* in manifest.csv") as caught:
        assigned(root, n_folds=3)
    assert "\n" not in str(caught.value)
    given(root, joined, fold=[1 if patient == "joined" else "" for patient in joined.values()])
    after = assigned(root, n_folds=3)["fold"]
    assert after[[one, two]].tolist() == [1, 1] and after.drop([one, two]).equals(before.drop([one, two]))


def test_one_ct_of_two_patients_changes_nothing_in_the_next_run(root):
    given(root, {f"{i}.nii": f"p{i}" for i in range(10)})
    table = root / "manifest.csv"
    table.write_text("".join(line.replace("9.nii", "8.nii") for line in table.read_text().splitlines(keepends=True)))
    first = source(root).rows
    assigned(root)
    assert source(root).rows["split"].tolist() == first["split"].tolist()


def test_the_working_folder_is_a_root():
    assert Files(".").root_dir == Path(".") and Files(".").missing() == []
    assert Files("repository:/assets").root_dir.is_dir()
    assert Files("").root_dir is None is Files(None).root_dir
