"""A synthetic case is in the split of all its parents, however the splits come about."""

from functools import partial

import pandas as pd
import pytest
from chest_files import save_nifti, thorax
from folder_sources import source

from common.errors import UserError
from dataset.cases.store import source_folder
from dataset.manifest.splits import assign_folds, assign_splits, with_parents
from dataset.manifest.table import parse_manifest, write_manifest

PATIENTS = [f"p{i}" for i in range(12)]


@pytest.fixture
def written(tmp_path):
    """Writes 12 patients and synthetic cases `name: (patient, parents)`, or with a split and a fold; the folder."""
    save_nifti(tmp_path / "data" / "a.nii", thorax((8, 8, 8)))

    def write(made, splits=(), folds=()):
        lines = ["id,patient,ct,split,fold,parents"]
        lines += [f"c{p},{p},a.nii,{dict(splits).get(p, '')},{dict(folds).get(p, '')}," for p in PATIENTS]
        for name, (patient, parents, *given) in made.items():
            split, fold = given or ("", "")
            lines.append(f"{name},{patient},a.nii,{split},{fold},{parents}")
        (tmp_path / "data" / "manifest.csv").write_text("\n".join(lines) + "\n")
        return tmp_path / "data"

    return write


def assigned(root, **options):
    """The rows by id; the next run finds their manifest."""
    made = source(root, **options)
    write_manifest(made.rows, source_folder(made, root.parent / "cache") / made.manifest)
    return made.rows.set_index("id")


@pytest.mark.parametrize(
    ("column", "options"),
    [("split", {}), ("fold", {"n_folds": 3}), ("split", {"test_patients": ["p3", "p4"], "val_patients": ["p5"]})],
)
def test_splits_and_folds_that_are_drawn(written, column, options):
    made = {f"m{p}": (f"s{p}", p) for p in PATIENTS} | {"mm": ("sp0", "sp0;p0"), "again": ("ss", "sp1")}
    root = written(made)
    for _ in range(2):  # the second run reads the manifest of the first
        rows = assigned(root, **options)
        for name in {column, "split"}:
            assert [rows.loc[f"m{p}", name] for p in PATIENTS] == [rows.loc[f"c{p}", name] for p in PATIENTS]
            assert rows.loc["mm", name] == rows.loc["cp0", name]
            assert rows.loc["again", name] == rows.loc["cp1", name]
        assert set(rows.loc[[f"c{p}" for p in PATIENTS], "split"]) == {"train", "val", "test"}


def test_synthetic_cases_take_no_part_in_the_draw(written):
    plain = source(written({})).rows.set_index("id")["split"]
    made = {f"m{i}": (f"a{i}", "p7") for i in range(50)}
    made = source(written(made), cache_dir=written(made).parent / "other").rows.set_index("id")["split"]
    assert made[plain.index].equals(plain)


@pytest.mark.parametrize("options", [{}, {"n_folds": 3}])
def test_families_are_drawn_whole(written, options):
    """Synthetic cases of two parents each, as from registered pairs."""
    made = {f"m{i}": (f"s{i}", f"p{2 * i};p{2 * i + 1}") for i in range(6)}
    root = written(made)
    for _ in range(2):  # the second run reads the manifest of the first
        rows = assigned(root, **options)
        for column in {"split", "fold" if options else "split"}:
            for i in range(6):
                assert rows.loc[[f"m{i}", f"cp{2 * i}", f"cp{2 * i + 1}"], column].nunique() == 1
        assert set(rows["split"]) == {"train", "val", "test"}
    assert rows.groupby("split").size()["train"] < 18


@pytest.mark.parametrize(("options", "given"), [({}, ("test", "")), ({"n_folds": 3}, ("", "2"))])
def test_a_split_of_a_synthetic_case_is_that_of_its_family(written, options, given):
    rows = source(written({"m": ("s", "p0;p1", *given)}), **options).rows.set_index("id")
    column = "fold" if options else "split"
    assert set(rows.loc[["m", "cp0", "cp1"], column].astype(str)) == {"".join(given)}
    assert set(rows["split"]) == {"train", "val", "test"}


def test_a_new_synthetic_case_of_earlier_splits_trains_with_its_parents(written, caplog):
    earlier = {"p0": "test", "p1": "train", "p2": "val", "p3": "test"}
    assigned(written({}, splits=earlier))
    rows = assigned(written({"m": ("s", "p0;p1"), "n": ("t", "p3;p2")}))["split"]
    assert rows[["m", "cp0", "cp1"]].tolist() == ["train"] * 3 and rows[["n", "cp2", "cp3"]].tolist() == ["val"] * 3
    assert "joins patients of test and train, such as p0" in caplog.text


def test_a_new_synthetic_case_of_two_earlier_folds_is_refused(written):
    assigned(written({}, folds={"p0": 0, "p1": 1}), n_folds=3)
    root = written({"m": ("s", "p0;p1")})
    table = root / "manifest.csv"
    save_nifti(root / "b.nii", thorax((8, 8, 8), seed=1))
    table.write_text(table.read_text().replace("m,s,a.nii", "m,s,b.nii"))  # a CT that no earlier patient has
    with pytest.raises(UserError, match="joins patients of folds 0 and 1, such as p0, whose models") as caught:
        _ = source(root, n_folds=3).rows
    assert "\n" not in str(caught.value)
    rows = source(written({"m": ("s", "p0;p1", "", "0")}), n_folds=3).rows.set_index("id")  # the table decides
    assert rows.loc[["m", "cp0", "cp1"], "fold"].tolist() == [0, 0, 0]


def test_the_draw_without_parents_is_that_of_the_patients(written):
    rows = parse_manifest(written({}) / "manifest.csv")
    for draw, column in ((assign_splits, "split"), (partial(assign_folds, n_folds=3, fold=1), "fold")):
        expected = draw(rows, known={"p3": {"split": "val", "fold": 2}[column]})
        drawn = with_parents(rows, draw, column, rows["id"] == "", known={"p3": expected[column][3]})
        pd.testing.assert_frame_equal(drawn, expected)
        one_each = rows.assign(parents=["p5" if name == "p11" else "" for name in rows["patient"]])
        one_each.loc[11, "patient"] = "a"  # sorts before its parent
        drawn = with_parents(one_each, draw, column, rows["id"] == "", known={})
        assert drawn["split"][:11].equals(draw(one_each[:11], known={})["split"])


def test_parents_without_a_row_are_one_family(written):
    rows = assigned(written({"m1": ("s1", "x"), "m2": ("s2", "x;y"), "m3": ("s3", "y"), "n": ("s4", "s4")}))
    assert rows.loc[["m1", "m2", "m3"], "split"].nunique() == 1 and rows.loc["n", "split"]


@pytest.mark.parametrize(
    ("made", "options", "found"),
    [
        (("s", "p0;p1"), {}, "p0 in train and p1 in test"),
        (("p0", "p0;p1"), {}, "p0 in train and p1 in test"),
        (("s", "p1", "train", ""), {}, "p1 in test and s in train"),
        (("s", "p0;p1"), {"n_folds": 3}, "p0 in 0 and p1 in 1"),
        (("s", "p1", "", "2"), {"n_folds": 3}, "p1 in 1 and s in 2"),
        (("s", "p0"), {"test_patients": ["s"]}, "p0 in train and s in test"),
    ],
)
def test_parents_in_two_splits_are_refused_by_the_manifest_of_the_user(written, made, options, found):
    root = written({"m": made}, splits={"p0": "train", "p1": "test"}, folds={"p0": 0, "p1": 1})
    column = "fold" if "n_folds" in options else "split"
    with pytest.raises(UserError, match=rf"data/manifest.csv: case m and its parents need one {column} \({found}\)"):
        _ = source(root, **options).rows
