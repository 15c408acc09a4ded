"""The manifest rejects invalid tables; splits are stratified by label and stable."""

import numpy as np
import pandas as pd
import pytest

from common.errors import UserError
from dataset.manifest.splits import assign_folds, assign_splits
from dataset.manifest.table import COLUMNS, make_rows, read_manifest, write_manifest


def table(path, text):
    path.write_text(text)
    return path


def rows(patients, labels=None, split=""):
    labels = labels or [-1] * len(patients)
    return make_rows(
        {"id": f"c{i}", "patient": p, "ct": "x.nii", "xray_source": "drr", "label": labels[i], "split": split}
        for i, p in enumerate(patients)
    )


def test_minimal_table_gets_every_column_and_keeps_its_own(tmp_path):
    path = table(
        tmp_path / "manifest.csv", "id, patient,ct,xray,age,ward\n001,p1,a.nii.gz,,61,A\n002,p2,b.nii.gz,b.png,70,B\n"
    )
    read = read_manifest(path)
    assert list(read.columns) == [*COLUMNS, "ward"]
    assert read["id"].tolist() == ["001", "002"]  # not numbers
    assert read["xray_source"].tolist() == ["drr", "film"] and read["label"].tolist() == [-1, -1]
    assert read["split"].tolist() == ["", ""] and read["age"].tolist() == [61, 70]
    assert read["fold"].tolist() == [-1, -1] and read["hours_xray_to_ct"].isna().all()


def test_label_of_another_column(tmp_path):
    path = table(tmp_path / "m.csv", "id,patient,ct,PE\n1,1,a.nii,1\n2,2,b.nii,0.0\n3,3,c.nii,\n")
    assert read_manifest(path, label_column="PE")["label"].tolist() == [1, 0, -1]
    with pytest.raises(UserError, match="no column pe"):
        read_manifest(path, label_column="pe")


def test_written_and_read_is_the_same(tmp_path):
    made = assign_splits(rows([f"p{i}" for i in range(9)], [0, 1, -1] * 3))
    write_manifest(made, tmp_path / "deep" / "manifest.csv")
    pd.testing.assert_frame_equal(read_manifest(tmp_path / "deep" / "manifest.csv"), made, check_dtype=False)


HEAD = "id,patient,ct,label,split\n"


@pytest.mark.parametrize("written", ["", "nan", "NaN"])
def test_unknown_numbers(tmp_path, written):
    table = tmp_path / "m.csv"
    table.write_text(f"id,patient,ct,age,fold,label,hours_xray_to_ct\n1,p,a.nii{f',{written}' * 4}\n")
    row = read_manifest(table).iloc[0]
    assert (row["age"], row["fold"], row["label"]) == (-1, -1, -1) and np.isnan(row["hours_xray_to_ct"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a readable CSV"),
        (HEAD, "no rows"),
        ("name,ct\na,b\n", "column id, patient is missing"),
        (HEAD + "1,,a.nii,0,train\n", "row 2 has no patient"),
        (HEAD + "1,p,a.nii,0,train\n1,q,b.nii,0,train\n", "id 1 stands in two rows"),
        (HEAD + "1,p,a.nii,2,train\n", "row 2 has label=2"),
        (HEAD + "1,p,a.nii,yes,train\n", "row 2 has label=yes"),
        (HEAD + "1,p,a.nii,0,training\n", "row 2 has split=training; choose train, val, test"),
        (HEAD + "1,p,a.nii,0,train\n2,p,b.nii,0,test\n", "patient p is in test and train"),
        ("id,patient,ct,fold\n1,p,a.nii,0\n2,p,b.nii,1\n", "patient p is in 0 and 1; a patient belongs to one fold"),
        ("id,patient,ct,age\n1,p,a.nii,old\n", "row 2 has age=old; give a whole number, -1 if unknown"),
        ("id,patient,ct,age\n1,p,a.nii,inf\n", "row 2 has age=inf; give a whole number"),
        ("id,patient,ct,age\n1,p,a.nii,1e30\n", "row 2 has age=1e30; give a whole number"),
        ("id,patient,ct,fold\n1,p,a.nii,1.5\n", "row 2 has fold=1.5; give a whole number"),
        ("id,patient,ct,fold\n1,p,a.nii,-3\n", "row 2 has fold=-3; give a whole number"),
        ("id,patient,ct,hours_xray_to_ct\n1,p,a.nii,inf\n", "row 2 has hours_xray_to_ct=inf; give a number"),
        ("id,patient,ct,label,label\n1,p,a.nii,0,1\n", "two columns are called 'label'; rename or remove one"),
        ("id,patient,ct,xray,view\n1,p,a.nii,a.png,oblique\n", "row 2 has view=oblique; choose PA, AP, lateral"),
        ("id,patient,ct,xray,view\n1,p,a.nii,a.png;b.png,PA\n", "2 X-rays but view=PA; name a view for each"),
        ("id,patient,ct,xray_source\n1,p,a.nii,photo\n", "row 2 has xray_source=photo"),
        ("id,patient,ct\n1,2,3,4,5\n1,2\n\x00", "manifest.csv"),
        ("id,patient,ct\nsiteA/001,p,a.nii\n", "row 2 has id=siteA/001, which cannot be the name of a file"),
        ("id,patient,ct\n1,p,a.nii\n..\\x,p,a.nii\n", r"row 3 has id=..\\x"),
        ("id,patient,ct\n.a,p,a.nii\n", "row 2 has id=.a, .* no dot in front"),
        (f"id,patient,ct\n{'é' * 76},p,a.nii\n", "at most 150 bytes"),
    ],
)
def test_bad_tables_give_one_line_with_file_and_remedy(tmp_path, text, message):
    path = table(tmp_path / "manifest.csv", text)
    with pytest.raises(UserError, match=message) as caught:
        read_manifest(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_missing_table_is_explained(tmp_path):
    with pytest.raises(UserError, match="no such file.*id, patient, ct"):
        read_manifest(tmp_path / "manifest.csv")


@pytest.mark.parametrize("count", [1, 2, 3, 4, 10, 57])
def test_small_and_large_folders_get_sensible_splits(count):
    split = assign_splits(rows([f"p{i}" for i in range(count)]))["split"].value_counts().to_dict()
    assert split.get("train", 0) >= 1 and sum(split.values()) == count
    assert split.get("val", 0) == (0 if count < 2 else max(1, round(count * 0.1)))
    assert split.get("test", 0) == (0 if count < 3 else max(1, round(count * 0.1)))


def test_no_patient_is_in_two_splits_and_labels_are_spread():
    patients = [f"p{i // 2}" for i in range(400)]
    labels = [1 if i // 2 < 60 else 0 for i in range(400)]
    split = assign_splits(rows(patients, labels), val=0.2, test=0.2, seed=3)
    assert (split.groupby("patient")["split"].nunique() == 1).all()
    share = split.groupby("split")["label"].mean()
    assert (share - 0.3).abs().max() < 0.02  # 60 of 200 patients


def test_seed_fixes_the_split_and_changes_it():
    made = rows([f"p{i}" for i in range(40)])
    first = assign_splits(made, seed=0)["split"].tolist()
    assert first == assign_splits(made, seed=0)["split"].tolist() != assign_splits(made, seed=1)["split"].tolist()
    shuffled = assign_splits(made.sample(frac=1, random_state=0), seed=0).set_index("id")["split"]
    assert shuffled.loc[made["id"]].tolist() == first  # the order of the files does not matter


def test_given_and_known_splits_stay_when_the_folder_grows():
    small = assign_splits(rows([f"p{i}" for i in range(20)]), seed=0)
    known = small.set_index("patient")["split"].to_dict()
    grown = assign_splits(rows([f"p{i}" for i in range(60)]), seed=0, known=known)
    assert grown["split"].tolist()[:20] == small["split"].tolist()
    assert {"train", "val", "test"} <= set(grown["split"][20:])
    given = rows(["a", "a", "b", "c"])
    given.loc[0, "split"] = "test"
    made = assign_splits(given, seed=0, known={"a": "train"})
    assert made["split"].tolist()[:2] == ["test", "test"]  # what the table says wins, for the whole patient


def test_the_volumes_to_generate_may_be_in_another_column(tmp_path):
    path = table(tmp_path / "m.csv", "id,patient,plain,angio\n1,1,a.nii,b.nii\n")
    assert read_manifest(path, target_column="angio")["ct"].tolist() == ["b.nii"]
    with pytest.raises(UserError, match="column late is missing"):
        read_manifest(path, target_column="late")


def test_the_input_may_be_in_another_column(tmp_path):
    path = table(tmp_path / "m.csv", "id,patient,ct,film,angio\n1,1,a.nii,x\\b.png,c.nii\n2,2,d.nii,,e.nii\n")
    read = read_manifest(path, source_column="film")
    assert read["xray"].tolist() == ["x/b.png", ""] and read["xray_source"].tolist() == ["film", "drr"]
    swapped = read_manifest(path, source_column="ct", target_column="angio")
    assert swapped["xray"].tolist() == ["a.nii", "d.nii"] and swapped["ct"].tolist() == ["c.nii", "e.nii"]
    with pytest.raises(UserError, match=r"no column late \(dataset.source_column\); the table has id, patient"):
        read_manifest(path, source_column="late")


def test_views_are_counted_only_for_the_column_of_x_rays(tmp_path):
    path = table(tmp_path / "m.csv", "id,patient,ct,film\n1,1,a.nii,x.png;y.png\n")
    assert read_manifest(path, source_column="film")["xray"].tolist() == ["x.png;y.png"]
    path = table(tmp_path / "n.csv", "id,patient,ct,xray\n1,1,a.nii,x.png;y.png\n")
    with pytest.raises(UserError, match="2 X-rays but view="):
        read_manifest(path)


def folded(made, n=5, **options):
    return [assign_folds(made, n, k, **options) for k in range(n)]


@pytest.mark.parametrize("n", [4, 5])
def test_every_patient_is_tested_once_and_folds_hold_the_labels_in_proportion(n):
    patients = [f"p{i // 2}" for i in range(120)]
    made = rows(patients, [i // 2 % 2 for i in range(120)])
    runs = folded(made, n, seed=2)
    tested = pd.concat([r[r["split"] == "test"] for r in runs])
    assert sorted(tested["id"]) == sorted(made["id"])
    for k, run in enumerate(runs):
        assert (run["fold"] == runs[0]["fold"]).all()  # the folds do not depend on which one is tested
        assert (run.groupby("patient")["split"].nunique() == 1).all()
        assert set(run.loc[run["split"] == "val", "fold"]) == {(k + 1) % n}
        for split in ("test", "val"):
            chosen = run[run["split"] == split]
            assert abs(chosen["label"].mean() - 0.5) < 0.1 and abs(len(chosen) - 120 / n) <= 2


def test_folds_of_the_table_and_earlier_folds_stay():
    made = rows([f"p{i}" for i in range(20)])
    before = assign_folds(made, 5, 0).set_index("patient")["fold"]
    grown = rows([f"p{i}" for i in range(40)])
    after = assign_folds(grown, 5, 0, known=before.to_dict()).set_index("patient")["fold"]
    assert after[before.index].tolist() == before.tolist() and after.value_counts().tolist() == [8] * 5
    grown.loc[0, "fold"] = 4
    assert assign_folds(grown, 5, 0, known={"p0": 1})["fold"][0] == 4


@pytest.mark.parametrize(("n", "fold", "message"), [(2, 0, "n_folds=2"), (9, 0, "n_folds=9"), (4, 4, "fold=4")])
def test_invalid_folds_are_rejected(n, fold, message):
    with pytest.raises(UserError, match=message):
        assign_folds(rows([f"p{i}" for i in range(8)]), n, fold)
    made = rows([f"p{i}" for i in range(8)])
    made.loc[0, "fold"] = 5
    with pytest.raises(UserError, match="has a fold 5"):
        assign_folds(made, 4, 0)
