"""Morphs as training cases of a folder: rows, lineage, cache, resume, bad input."""

import errno
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from chest_files import save_nifti, thorax
from folder_sources import data_module, film, source
from scipy.ndimage import gaussian_filter

from common.errors import UserError
from dataset.cases.store import prepare_cases, read_case
from dataset.imaging.coverage import NOT_SCANNED_HU
from dataset.imaging.lung_segmentation import segment_lungs
from dataset.manifest.table import make_rows, write_manifest
from dataset.morph import pairs, registration
from dataset.morph.settings import MorphSettings
from dataset.sources.framed_phantom import framed_phantom
from dataset.sources.morphs import MorphSource

SPLITS = {"a": "train", "b": "train", "c": "train", "d": "val", "e": "test"}


@pytest.fixture(autouse=True, scope="module")
def quick():
    """Registration at the coarsest level alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registration, "LEVELS", ((4, 2, 5),))
        yield


def _write(root, splits=SPLITS, **changes):
    for i, name in enumerate(splits):
        hu = gaussian_filter(thorax((44, 40, 48), seed=i).astype(np.float32), 0.7)
        hu[:, :, : 2 * i] = -1000.0
        save_nifti(root / f"{name}.nii.gz", hu, spacing=(7.0, 7.0, 7.0))
    rows = [{"id": f"{n}1", "patient": n, "ct": f"{n}.nii.gz", "split": s, **changes} for n, s in splits.items()]
    write_manifest(make_rows(rows), root / "manifest.csv")
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return _write(tmp_path_factory.mktemp("morphs") / "data")


@pytest.fixture(scope="module")
def prepared(root, tmp_path_factory):
    """Cache folder and files of the cases of five patients and three morphs."""
    cache = tmp_path_factory.mktemp("prepared") / "cache"
    return cache, prepare_cases(_morphs(root, 3, cache), cache, 0)


def _morphs(root, count=3, cache=None, **options):
    return MorphSource(source(root, **({} if cache is None else {"cache_dir": cache})), count, **options)


def test_without_morphs_the_source_is_the_folder(root):
    plain, wrapped = source(root), _morphs(root, 0)
    assert wrapped.rows.equals(plain.rows)
    assert wrapped.describe() == plain.describe() and wrapped.home() == plain.home()
    assert [wrapped.key(row) for row in wrapped.rows.to_dict("records")] == [
        plain.key(row) for row in plain.rows.to_dict("records")
    ]


def test_morphs_are_training_cases_of_training_patients_alone(root):
    rows = _morphs(root, 40).rows
    morphs = rows[rows["parents"] != ""]
    assert len(morphs) == 40 and set(morphs["split"]) == {"train"}
    parents = {parent for value in morphs["parents"] for parent in value.split(";")}
    assert parents == {"a", "b", "c"}
    assert all(row.patient in row.parents.split(";") for row in morphs.itertuples())


def test_the_same_seed_and_index_give_the_same_case_alone_or_among_others(root, tmp_path, prepared):
    data = data_module(_morphs(root, 2, tmp_path / "one"), tmp_path / "one")
    more = prepared[1]
    for index in (0, 1):
        first, second = data.train.paths[3 + index], more[5 + index]
        assert first.name == second.name
        one, other = read_case(first), read_case(second)
        assert all((one[name] == other[name]).all() or one[name].isnan().any() for name in one)
    assert (read_case(more[5])["ct"] != read_case(more[6])["ct"]).any()
    other_seed = _morphs(root, 2, seed=1)
    assert other_seed.key(other_seed.rows.iloc[-1]) != first.stem.rpartition("-")[2]


def test_a_case_has_hu_lungs_and_marks(prepared):
    case = read_case(prepared[1][-1])
    hu = case["ct"].float()
    assert ((hu == NOT_SCANNED_HU) | (hu >= -1024)).all() and hu.max() < 1100
    assert not case["lung_box"].isnan().any() and case["xray"].std() > 0.1


def test_registrations_are_kept_and_a_resumed_preparation_makes_the_rest(root, tmp_path, prepared):
    shutil.copytree(prepared[0], tmp_path, dirs_exist_ok=True)
    files = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("registrations/*.safetensors")}
    assert len(files) == 3  # pairs of three patients
    cases = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("cases/*.safetensors")}
    next(p for p in cases if p.name.startswith("morph_00000001")).unlink()
    prepare_cases(_morphs(root, 3, tmp_path), tmp_path, 0)
    assert {p: p.stat().st_mtime_ns for p in files} == files
    made_again = [p.name for p, time in cases.items() if p.stat().st_mtime_ns != time]
    assert len(made_again) == 1 and made_again[0].startswith("morph_00000001")


def test_a_changed_parent_makes_new_morphs_and_a_missing_one_is_named(tmp_path):
    root = _write(tmp_path / "data")
    before = _morphs(root, 12)
    keys = [before.key(row) for row in before.rows.to_dict("records")]
    hu = gaussian_filter(thorax((44, 40, 48), seed=9).astype(np.float32), 0.7)
    save_nifti(root / "a.nii.gz", hu, spacing=(7.0, 7.0, 7.0))
    after = _morphs(root, 12)
    for row, key in zip(after.rows.to_dict("records"), keys, strict=True):
        assert (after.key(row) != key) == ("a" in (row["parents"].split(";") if row["parents"] else [row["patient"]]))
    (root / "a.nii.gz").unlink()
    with pytest.raises(UserError, match=r"ct=a.nii.gz: no such file"):
        _ = _morphs(root, 12).rows


def test_registrations_depend_on_files_alone(root):
    """Sizes of volumes and X-rays change the cases, not the registrations; the removal of the table changes both."""
    pair = ("a1", "b1")
    first, cases = _morphs(root)._file_of(pair), {}
    for name, options in {
        "": {},
        "volume_size": {"volume_size": (16, 16, 16)},
        "table": {"remove_table": True},
        "xray_size": {"xray_size": (32, 32)},
    }.items():
        other = MorphSource(source(root, **options), 3)
        cases[name] = other.key(other.rows.iloc[-1])
        assert (other._file_of(pair) == first) == (name != "table"), name
    assert len(set(cases.values())) == 4


def test_phantoms_depend_on_the_spacing_and_not_on_the_fold(root):
    keys = {}
    for spacing in (None, (10.0, 10.0, 10.0), (8.0, 8.0, 8.0)):
        made = MorphSource(source(root, spacing=spacing), phantoms=1)
        keys[spacing] = made.key(made.rows.iloc[-1])
    assert len(set(keys.values())) == 3
    folds = [MorphSource(source(root, n_folds=3, fold=fold), phantoms=1) for fold in (0, 1)]
    assert len({made.key(made.rows.iloc[-1]) for made in folds}) == 1


def test_a_file_with_parents_of_its_own_is_read(tmp_path):
    """A user's manifest may name parents of a case, for the check of leakage."""
    root = _write(tmp_path)
    rows = pd.read_csv(root / "manifest.csv", dtype=str, keep_default_na=False)
    rows["parents"] = ["a;b" if name == "c1" else "" for name in rows["id"]]
    write_manifest(rows, root / "manifest.csv")
    for count in (0, 2):
        made = _morphs(root, count)
        (row,) = made.rows[made.rows["id"] == "c1"].to_dict("records")
        assert made.key(row) == made.source.key(row)
        case, plain = made.build(row), made.source.build(row)
        assert torch.equal(case["ct"], plain["ct"])


def test_parents_that_do_not_fit_into_memory_are_refused_before_the_work(tmp_path, monkeypatch):
    source = _morphs(_write(tmp_path / "few"))
    monkeypatch.setattr("dataset.sources.morphs.free_memory", lambda: 1000)
    with pytest.raises(UserError, match=r"the 3 CTs of which they are made take .* GB .* spacing=.2,2,2."):
        source.prepare(0)
    assert len(source._anatomies) == 1


def test_one_training_patient_and_films_are_refused(tmp_path):
    one = _write(tmp_path / "one", {"a": "train", "d": "val", "e": "test"})
    with pytest.raises(UserError, match=r"dataset.morphs=3: 1 of 3 patients train; .* dataset.val_share=0"):
        _ = _morphs(one).rows
    films = _write(tmp_path / "films", xray="a.png")
    film(films / "a.png")
    with pytest.raises(UserError, match=r"3 training cases have X-ray files, for example a1"):
        _ = _morphs(films).rows
    with pytest.raises(UserError, match=r"dataset.morphs=-1: give 0 or more"):
        _morphs(one, -1)


def test_a_case_without_lungs_is_named(tmp_path):
    root = _write(tmp_path / "data")
    save_nifti(root / "b.nii.gz", np.where(thorax((44, 40, 48)) < -500, -1000, 40), spacing=(7.0, 7.0, 7.0))
    flat = np.where(np.indices((44, 40, 48))[1] < 5, -1000, 40).astype(np.int16)
    save_nifti(root / "b.nii.gz", flat, spacing=(7.0, 7.0, 7.0))
    with pytest.raises(UserError, match=r"b.nii.gz: no lungs found, so it cannot be morphed"):
        prepare_cases(_morphs(root, 6, tmp_path / "cache"), tmp_path / "cache", 0)


def test_a_registration_that_folds_is_reported_and_not_used(root, tmp_path, monkeypatch, caplog):
    def folds(*_):
        raise UserError("folds")

    monkeypatch.setattr("dataset.morph.pairs.register", folds)
    settings = MorphSettings(smooth_mm=(0, 0), affine=0, size=0, organs_mm=0, wall=0)
    morphs = _morphs(root, 3, tmp_path, settings=settings)
    paths = prepare_cases(morphs, tmp_path, 0)
    assert "a1 and b1: their registration folds" in caplog.text
    tissue = [read_case(paths[i]) for i, row in enumerate(morphs.rows.to_dict("records")) if row["id"] == "a1"][0]
    made = [read_case(p) for p, r in zip(paths, morphs.rows.to_dict("records"), strict=True) if r["parents"]]
    assert any(abs(float((m["spacing"] - tissue["spacing"]).abs().max())) < 0.3 for m in made)


def test_phantoms_stand_in_the_frame_of_the_others(root, tmp_path):
    mixed = MorphSource(source(root, cache_dir=tmp_path), phantoms=2)
    rows = mixed.rows
    assert list(rows["id"][-2:]) == ["phantom_00000000", "phantom_00000001"] and set(rows["split"][-2:]) == {"train"}
    cases = [read_case(path) for path in prepare_cases(mixed, tmp_path, 0)[-2:]]
    volume = framed_phantom(1, 0)
    lungs = segment_lungs(volume.hu, volume.spacing)
    for axis, (n, mm) in enumerate(zip(lungs.shape, volume.spacing, strict=True)):
        found = np.flatnonzero(lungs.any(axis=tuple(other for other in range(3) if other != axis)))
        assert abs(found[0] * mm - 40.0) < 5 and abs((n - 1 - found[-1]) * mm - 40.0) < 5
    assert (volume.hu != NOT_SCANNED_HU).mean() > 0.95
    assert (cases[0]["ct"] != cases[1]["ct"]).any()
    assert mixed.describe()["phantoms"] == 2
    with pytest.raises(UserError, match=r"dataset.phantoms=-1: give 0 or more"):
        MorphSource(source(root), phantoms=-1)


def test_a_share_of_the_synthetic_patients_is_seen_from_the_front(root, tmp_path):
    plain, mixed = (MorphSource(source(root, cache_dir=tmp_path), phantoms=4, ap_share=share) for share in (0.0, 0.6))
    rows = mixed.rows.iloc[-4:].to_dict("records")
    views = [row["view"] for row in rows]
    assert set(views) == {"AP", ""} and list(plain.rows["view"][-4:]) == [""] * 4
    assert [mixed.key(row) == plain.key({**row, "view": ""}) for row in rows] == [view == "" for view in views]
    assert mixed.describe()["ap_share"] == 0.6 and "ap_share" not in plain.describe()
    for path, view in zip(prepare_cases(mixed, tmp_path, 0)[-4:], views, strict=True):
        pose = read_case(path)["pose"][0]
        assert pose[[0, 2]].tolist() == ([1200.0, 180.0] if view == "AP" else [1800.0, 0.0])
    many = MorphSource(source(root), ap_share=0.3)
    assert 0.25 < np.mean([many.view(index) == "AP" for index in range(500)]) < 0.35


@pytest.mark.parametrize("workers", [0, 2])
def test_registrations_on_a_full_disk_end_in_one_line(root, tmp_path, monkeypatch, workers):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pairs, "save_checked", full)
    monkeypatch.setattr(pairs, "register", lambda *_: torch.zeros(3, 4, 4, 4))
    with pytest.raises(UserError, match=rf"^dataset.cache_dir={tmp_path}: cannot be written .*No space left"):
        _morphs(root, 3, tmp_path).prepare(workers)
