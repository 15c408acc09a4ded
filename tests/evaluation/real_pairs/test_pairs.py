"""Pairs: a volume that is the CT moved rigidly is moved back; agreement, groups, masks, and what is left out."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch
from drawn_chest import chest
from evaluation_fakes import EXTENT, FakePipeline, protocol
from PIL import Image

from common.errors import UserError
from dataset.imaging.coverage import NOT_SCANNED_HU
from dataset.imaging.lung_segmentation import segment_lungs
from dataset.imaging.volume import Volume
from dataset.io.ct import read_volume
from dataset.io.nifti import write_nifti
from evaluation.generation.sample import Sampling
from evaluation.real_pairs import measures, pseudo_pairs
from evaluation.real_pairs.find_pairs import find_pairs, pair_rows
from evaluation.real_pairs.groups import agreement_table, groups_of, score_table
from evaluation.real_pairs.read_pairs import lung_place, read_case, read_pair_cases
from evaluation.real_pairs.score_pairs import PairScorer, PairSettings

SIZE = (32, 32, 32)
SPACING = tuple(e / n for e, n in zip(EXTENT, SIZE, strict=True))
DEGREES, SHIFT = 5.0, (9.0, -8.0, 12.0)  # about D; mm of (D, H, W)


def moved(hu):
    """The volume turned about its axis D, then shifted."""
    image = sitk.GetImageFromArray(hu)
    image.SetSpacing(SPACING[::-1])
    motion = sitk.Euler3DTransform(image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in SIZE]))
    motion.SetRotation(0.0, 0.0, np.radians(DEGREES))
    motion.SetTranslation(SHIFT[::-1])
    return torch.from_numpy(
        sitk.GetArrayFromImage(sitk.Resample(image, motion.GetInverse(), sitk.sitkLinear, -1000.0))
    )


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """A set of four pairs of three patients and an X-ray that cannot be read; volumes by grey value of the X-ray."""
    root, rows = tmp_path_factory.mktemp("set"), []
    for n, (patient, sex, age, view) in enumerate(
        [("a", "M", 30, "PA"), ("b", "F", 40, "AP"), ("c", "female", 70, "PA")]
    ):
        volume = chest(scale=(0.85, 0.7, 0.78)[n], table=False)
        write_nifti(root / f"{patient}.nii.gz", volume.hu, volume.spacing, volume.centre)
        grey = (
            np.tile(np.linspace(0, 255, 48), (48, 1)) if n % 2 else np.tile(np.linspace(0, 255, 48)[:, None], (1, 48))
        )
        Image.fromarray((grey if n < 2 else 255 - grey).astype(np.uint8)).save(root / f"{patient}.png")
        rows.append({"id": f"{patient}1", "patient": patient, "ct": f"{patient}.nii.gz", "xray": f"{patient}.png",
                     "view": view, "age": age, "sex": sex, "effusion": n % 2})  # fmt: skip
    (root / "broken.png").write_bytes(b"no picture")
    rows += [
        rows[0] | {"id": "a2"},
        rows[1] | {"id": "broken", "xray": "broken.png"},
        rows[2] | {"id": "drr", "xray": ""},
    ]
    pd.DataFrame(rows).to_csv(root / "manifest.csv", index=False)
    pipeline = FakePipeline(None, protocol(SIZE), noise=1.0)
    table = pair_rows(root)
    cases, left_out = read_pair_cases(find_pairs(table, root), pipeline)
    volumes = [moved(c.case()["ct"].numpy()) for c in cases]

    def answer(xray):
        return volumes[int(np.argmin([float((c.given.xray - xray).abs().mean()) for c in cases]))]

    pipeline._answer = answer
    return root, pipeline, table, cases, left_out


@pytest.fixture(scope="module")
def result(pairs, tmp_path_factory):
    root, pipeline, table, cases, left_out = pairs
    output, masks = tmp_path_factory.mktemp("out"), tmp_path_factory.mktemp("masks")
    for end, count in (("generated", 30), ("true", 20)):
        (masks / f"a1_{end}").mkdir()
        mask = np.zeros((10, 10, 10), np.uint8)
        mask.flat[:count] = 1
        nib.save(
            nib.Nifti1Image(mask, np.diag([10.0, 10.0, 10.0, 1.0])), masks / f"a1_{end}" / "pleural_effusion.nii.gz"
        )
    settings = PairSettings(["psnr", "lung_dice", "lung_centroid_mm"], ["effusion"], [40, 65], str(masks), nifti=0)
    rows = table[~table["id"].isin(left_out)].reset_index(drop=True)
    described = {"data": {"dataset": "set"}, "split": "all"}
    patch = pytest.MonkeyPatch()
    patch.setattr(measures, "SIDE", 64)
    PairScorer(pipeline, cases, rows, Sampling(1), settings).run(output, described)
    patch.undo()
    return output


def test_what_cannot_be_read_is_left_out_by_name(pairs):
    _, _, table, cases, left_out = pairs
    assert [c.pair.id for c in cases] == ["a1", "b1", "c1", "a2"] and "broken.png: not an image" in left_out["broken"]
    assert "drr" not in set(table["id"])
    assert [c.given.notes["view"] for c in cases] == ["PA", "AP", "PA", "PA"]


def test_the_lungs_of_the_ct_lie_where_those_of_the_training_lie(pairs):
    _, pipeline, _, cases, _ = pairs
    place = lung_place(pipeline)
    for case in cases:
        mask, coarse = measures.lungs_of(Volume(case.case()["ct"].numpy(), case.spacing))
        assert np.abs(measures.centre_of(mask, coarse.spacing) - place).max() < 6.0  # a voxel has 10 mm
    pipeline.protocol["lung_box"] = [0.2, 0.6, 0.25, 0.75, 0.5, 1.0]
    assert lung_place(pipeline) == pytest.approx([-0.1 * EXTENT[0], 0.0, 0.25 * EXTENT[2]])
    del pipeline.protocol["lung_box"]


def test_a_volume_that_was_moved_is_moved_back(result):
    scores = {
        name: pd.read_csv(place / "cases.csv").query("method == 'model'")
        for name, place in (("none", result / "without_registration"), ("rigid", result))
    }
    assert (scores["none"]["lung_centroid_mm"] > 8.0).any()
    assert (scores["rigid"]["lung_centroid_mm"] < 3.0).all() and (scores["rigid"]["lung_dice"] > 0.9).all()
    assert (scores["rigid"]["psnr"] > scores["none"]["psnr"] + 1.0).all()


def test_lung_volumes_agree_for_the_same_patient_and_not_for_another(result):
    """A rigid motion changes no volume; both sides cut voxels of 10 mm."""
    table = pd.read_csv(result / "measures.csv").query("measure == 'lung_ml'").set_index(["method", "id"])
    error = (table["generated"] - table["true"]).abs() / table["true"]
    assert error["model"].max() < 0.05
    assert list(error["shuffled_xray"].index) == ["a1", "b1", "c1", "a2"] and error["shuffled_xray"].max() > 0.05


def test_lungs_that_the_ct_cuts_off_have_no_volume(pairs, tmp_path):
    root, pipeline, *_, cases, _ = pairs
    ct = read_volume(root / "a.nii.gz")
    inside = np.flatnonzero(segment_lungs(ct.hu, ct.spacing).any(axis=(1, 2)))
    for end, cut in (("base", inside[len(inside) // 3]), ("below", 2)):
        hu = ct.hu.copy()
        hu[:cut] = NOT_SCANNED_HU
        write_nifti(tmp_path / f"{end}.nii.gz", hu, ct.spacing, ct.centre)
        pair = replace(cases[0].pair, ct=str(tmp_path / f"{end}.nii.gz"))
        read = read_case(pair, cases[0].given, SIZE, lung_place(pipeline))
        assert np.isnan(read.lung_ml) if end == "base" else read.lung_ml == pytest.approx(cases[0].lung_ml, rel=0.01)


def test_agreement_and_groups_are_tabulated(result):
    agreement = pd.read_csv(result / "agreement.csv")
    own = agreement.query("method == 'model' and measure == 'lung_ml'").set_index(["group", "level"])
    assert dict(own["pairs"]) == {("all", "all"): 4, ("sex", "F"): 2, ("sex", "M"): 2, ("age", "40 to 64"): 1,
                                  ("age", "65 on"): 1, ("age", "below 40"): 2, ("view", "AP"): 1, ("view", "PA"): 3,
                                  ("effusion", "no"): 3, ("effusion", "yes"): 1}  # fmt: skip
    assert own.loc[("all", "all"), "patients"] == 3 and np.isnan(own.loc[("all", "all"), "lower"])  # few patients
    masks = agreement.query("measure == 'pleural_effusion_ml' and group == 'all'").iloc[0]
    assert (masks["pairs"], masks["bias"]) == (1, pytest.approx(10.0))
    metrics = json.loads((result / "metrics.json").read_text())
    assert metrics["protocol"]["registration"] == "rigid" and metrics["protocol"]["patients"] == 3
    assert len(metrics["agreement"]) == len(agreement)
    text = (result / "pairs.md").read_text()
    assert "| lung_ml (ml) | model | 4 (3) |" in text and "| lung Dice | effusion: no | 3 (2) |" in text
    assert (result / "agreement.png").is_file() and (result / "sheet.png").is_file()


def test_a_metric_counts_the_patients_that_have_it():
    scores = pd.DataFrame({"patient": list("abcdef"), "psnr": [17.0, 24.0, *[np.nan] * 4]})
    row = score_table(scores, {}, ["psnr"]).iloc[0]
    assert (row["pairs"], row["patients"]) == (2, 2)


def test_limits_are_given_from_five_patients_on():
    true = np.arange(6.0)
    measured = pd.DataFrame({"method": "model", "measure": "lung_ml", "patient": list("abcdef"),
                             "generated": true + [1, -1, 1, -1, 1, -1], "true": true})  # fmt: skip
    row = agreement_table(measured, {"sex": pd.Series(list("MMMMFF"))}).set_index("level")
    assert row.loc["all", "upper"] == pytest.approx(1.96 * np.sqrt(6 / 5), abs=1e-3)
    assert row["upper"][["M", "F"]].isna().all() and row.loc["M", "bias"] == 0.0


def test_wrong_settings_are_one_line(pairs, tmp_path):
    root, _, table, _, _ = pairs
    for arguments, line in (
        ((tmp_path / "none",), "no such folder"),
        ((root, "test"), "no row with a radiograph in the split test"),
        ((root, "all"), "split=all: choose train, val, test"),
        ((root, None, None, ["z"]), "patients=.*: no z in"),
    ):
        with pytest.raises(UserError, match=line):
            pair_rows(*arguments)
    with pytest.raises(UserError, match="no column nodule in the manifest"):
        groups_of(table, ["nodule"], [40])
    with pytest.raises(UserError, match="masks=.*: no such folder"):
        PairSettings("default", masks=str(tmp_path / "none"))
    with pytest.raises(UserError, match="a1 has the views PA; the checkpoint takes a frontal and a lateral"):
        find_pairs(table, root, views=2, fewest=2)
    (tmp_path / "a1_true").mkdir()
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)), tmp_path / "a1_true" / "heart.nii.gz")
    with pytest.raises(UserError, match="a1_generated has no heart"):
        measures.mask_volumes(tmp_path, "a1")


def test_a_lateral_is_taken_where_there_is_one_and_needed_only_by_a_model_that_takes_both(pairs, tmp_path):
    root, _, table, _, _ = pairs
    both = table.iloc[[0, 1]].assign(xray=["a.png;b.png", "c.png"], view=["PA;lateral", "AP"])
    for views, fewest, files in ((2, 1, [2, 1]), (1, 1, [1, 1])):
        assert [len(pair.xrays) for pair in find_pairs(both, root, views, fewest)] == files
    with pytest.raises(UserError, match="b1 has the views AP; the checkpoint takes a frontal and a lateral"):
        find_pairs(both, root, 2, 2)


def test_two_ids_of_one_file_name_are_refused(pairs):
    root, _, table, _, _ = pairs
    with pytest.raises(UserError, match="the files of a/1 and a_1 would have one name, a_1"):
        find_pairs(table.iloc[:2].assign(id=["a/1", "a_1"]), root)


def test_pseudo_pairs_are_those_of_the_split_and_phantoms_have_none(pairs, tmp_path, monkeypatch):
    root, *_ = pairs
    monkeypatch.setattr(pseudo_pairs, "SIDE", 16)
    table = pd.read_csv(root / "manifest.csv").assign(split=["train", "test", "val", "train", "test", "val"])
    for name in "abc":
        (tmp_path / f"{name}.nii.gz").symlink_to(root / f"{name}.nii.gz")
    table.to_csv(tmp_path / "manifest.csv", index=False)
    pseudo_pairs.write_pseudo_pairs(pseudo_pairs.scans_of(str(tmp_path), None, split="test"), tmp_path / "out", 1)
    assert list(pair_rows(tmp_path / "out")["id"]) == ["b1_pose_1", "broken_pose_1"]
    for key, value, line in (
        ("split", "test", "split=test: phantoms have no split"),
        ("patients", ["a"], "patients=.*: phantoms have no patients"),
    ):
        with pytest.raises(UserError, match=line):
            pseudo_pairs.scans_of("phantoms", 2, **{key: value})
    table.assign(split="train").to_csv(tmp_path / "manifest.csv", index=False)
    with pytest.raises(UserError, match="manifest.csv: no row in the split test"):
        pseudo_pairs.scans_of(str(tmp_path), None, split="test")


def test_pseudo_pairs_are_films_of_unknown_pose(pairs, tmp_path, monkeypatch):
    """The same words give the same film; a set of CTs becomes a set of pairs with AP and PA."""
    root, *_ = pairs
    monkeypatch.setattr(pseudo_pairs, "SIDE", 48)
    for folder in (tmp_path / "one", tmp_path / "two"):
        pseudo_pairs.write_pseudo_pairs(pseudo_pairs.scans_of(str(root), 2), folder, 3, seed=1)
    rows = pair_rows(tmp_path / "one")
    assert list(rows["patient"]) == ["a"] * 3 + ["b"] * 3 and set(rows["view"]) == {"PA", "AP"}
    assert rows["effusion"].tolist() == ["0"] * 3 + ["1"] * 3
    films = [np.asarray(Image.open(f)) for f in sorted((tmp_path / "one").glob("*.png"))]
    assert all((a == np.asarray(Image.open(tmp_path / "two" / f.name))).all()
               for a, f in zip(films, sorted((tmp_path / "one").glob("*.png")), strict=True))  # fmt: skip
    assert len({film.tobytes() for film in films}) == 6
    with pytest.raises(UserError, match="no manifest.csv in it"):
        pseudo_pairs.scans_of(str(tmp_path), None)
