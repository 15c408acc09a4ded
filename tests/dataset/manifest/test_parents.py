"""A synthetic case is in the split of all its parents, however the splits come about."""

import pytest
from chest_files import save_nifti, thorax
from folder_sources import source

from common.errors import UserError
from dataset.cases.store import source_folder
from dataset.manifest.table import write_manifest

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
    plain = assigned(written({}), cache_dir=written({}).parent / "other")["split"]
    made = assigned(written({f"m{i}": (f"s{i}", "p0") for i in range(50)}))["split"]
    assert made[plain.index].equals(plain)


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
