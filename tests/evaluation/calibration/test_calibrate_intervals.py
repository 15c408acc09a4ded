"""Prediction intervals: their coverage, their file, and when volumes get a spread instead."""

import json
from dataclasses import asdict, replace
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from evaluation_fakes import EXTENT, FakeCases, FakePipeline, chest_world, oracle, protocol
from PIL import Image

from common.errors import UserError
from common.files import sha256
from dataset.imaging.hu_window import Window
from dataset.phantom.render import render_phantom
from ddpm.diffusion.training_spread import TrainingSpread
from evaluation.calibration.calibrate_intervals import calibrate, check_settings, covered_by, margins_of
from evaluation.calibration.cases import FirstCases, calibration_source
from evaluation.calibration.report import markdown, reliability_picture, write_calibration
from evaluation.generation.sample import Sampling
from evaluation.generation.write_volumes import generate
from evaluation.intervals.evidence import training_spread_of
from evaluation.intervals.organ_volumes import FEWEST, HeartVolumeRegressor, fit_heart_regressor, true_volumes
from evaluation.intervals.prediction_intervals import (
    NO_GUARANTEE,
    calibration_path,
    error_bars,
    find_intervals,
    read_intervals,
)
from evaluation.intervals.quantities import ORGANS, TISSUES, TITLES, tissue_masks

SPACING = tuple(e / 24 for e in EXTENT)
SAMPLES, LEVEL = 8, 0.75
SPREAD = {"size": [1, 1, 1], "sd": [100.0], "cases": 40}


class SharpPipeline(FakePipeline):
    """Samples with a spread that is much too small."""

    def describe(self) -> dict:
        return super().describe() | {"antithetic": True}


def erring(answer):
    """The same error in every sample of a case: its lungs shifted by a voxel, and 20 HU of texture."""

    def wrong(xray: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(int(1e4 * float(xray.sum())))
        volume = answer(xray)
        volume = volume.roll(int(torch.randint(-1, 2, (1,), generator=generator)), dims=2)
        return volume + 20.0 * torch.randn(volume.shape, generator=generator)

    return wrong


def apart(cases: FakeCases, name: str) -> FakeCases:
    cases.rows = pd.DataFrame({"id": [f"{name}_{i}" for i in range(len(cases))]}).assign(patient=lambda t: t["id"])
    return cases


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    parts = {name: apart(chest_world(n, seed=s), name) for s, (name, n) in enumerate({"c": 24, "t": 24}.items())}
    both = FakeCases([cases.case(i) for cases in parts.values() for i in range(len(cases))])
    pipeline = SharpPipeline(erring(oracle(both)), protocol(), noise=3.0)
    checkpoint = tmp_path_factory.mktemp("model") / "model.ckpt"
    checkpoint.write_bytes(b"weights")
    options = {"sampling": Sampling(SAMPLES, batch_size=64), "level": LEVEL, "population": {"dataset": "chests"}}
    intervals, scores = calibrate(pipeline, parts["c"], parts["t"], parts["c"], checkpoint, **options)
    return pipeline, parts, checkpoint, intervals, scores


def test_margins_correct_the_coverage_of_samples(world):
    *_, intervals, scores = world
    calibration = scores[(scores.part == "calibration") & (scores.level == LEVEL)]
    assert {"air", "lungs", "soft", "lung_volume"} <= set(intervals.margins) <= {*TISSUES, "lung_volume"}
    for quantity, margin in intervals.margins.items():
        rows = calibration[calibration.quantity == quantity]
        assert covered_by(rows, margin).mean() >= LEVEL, quantity  # on its own cases by construction
        found = intervals.coverage[quantity]
        assert found["cases"] == 24 and found["mean"] >= 0.4 and found["low"] <= found["mean"] <= found["high"]
    before = [row["before"]["mean"] for row in intervals.reliability if row["quantity"] == "soft"]
    assert max(before) < 0.2  # errors of 20 HU and more, a spread of 3


def test_margins_come_from_calibration_cases_alone(world):
    *_, intervals, scores = world
    again = margins_of(scores[scores.part == "calibration"], LEVEL)
    assert again == intervals.margins
    assert margins_of(scores[scores.part == "test"], LEVEL) != intervals.margins


def test_a_bias_moves_the_interval_without_widening_it():
    truth = np.random.default_rng(0).normal(size=200)
    rows = pd.DataFrame({"quantity": "lung_volume", "level": 0.8, "below": 300.0 - truth, "above": truth - 300.0})
    margin = margins_of(rows, 0.8)["lung_volume"]
    assert margin["low"] > 290 and margin["high"] < -290 and margin["low"] + margin["high"] < 5


def test_the_file_round_trips_and_names_its_checkpoint(world, tmp_path):
    _, _, checkpoint, intervals, _ = world
    path = intervals.write(calibration_path(checkpoint))
    assert path.name == "model.bounds.json" and find_intervals(None, checkpoint) == intervals
    assert find_intervals(None, tmp_path / "other.ckpt") is None
    held = json.loads(path.read_text())
    assert held["checkpoint"]["sha256"] == sha256(checkpoint) and held["drawn"]["samples"] == SAMPLES
    assert held["population"]["calibration_cases"] == 24
    path.unlink()


@pytest.mark.parametrize(
    "text", ["", "{}", '{"kind": "bounds", "format": 99}', '{"kind": "bounds", "format": 1, "checkpoint": {}}']
)
def test_a_damaged_file_raises_user_error(tmp_path, text):
    (tmp_path / "x.bounds.json").write_text(text)
    with pytest.raises(UserError, match="bounds=.*calibrate.py"):
        read_intervals(tmp_path / "x.bounds.json")


def test_error_bars_are_intervals_only_where_the_calibration_applies(world):
    pipeline, _, checkpoint, intervals, _ = world
    digest, sampled = sha256(checkpoint), pipeline.describe()
    solver = replace(intervals, drawn=intervals.drawn | {"solver_options": {}})
    older = replace(intervals, drawn={k: v for k, v in intervals.drawn.items() if k != "solver_options"})
    for held in (solver, older):
        assert error_bars(sampled | {"solver_options": {}}, SAMPLES, digest, held)["name"] == "interval"
    found = error_bars(sampled, SAMPLES, digest, intervals)
    assert found["name"] == "interval" and NO_GUARANTEE in found["words"] and "75 %" in found["words"]
    assert error_bars(sampled, 1, digest, intervals)["name"] == "none"
    for samples, described, hashed, held, reason in (
        (SAMPLES - 1, sampled, digest, intervals, "needs at least 8"),
        (SAMPLES + 4, sampled, digest, intervals, "calibrated for samples 8"),
        (SAMPLES, sampled | {"steps": 4}, digest, intervals, "calibrated for steps 3"),
        (SAMPLES, sampled, "0" * 64, intervals, "another checkpoint"),
        (SAMPLES, sampled, digest, None, "not calibrated"),
        (SAMPLES, sampled | {"solver_options": {"solver_order": 3}}, digest, solver, "drawn with solver_options"),
    ):
        bars = error_bars(described, samples, hashed, held)
        assert bars["name"] == "spread" and reason in bars["reason"]
    assert error_bars(sampled | {"preview": "spread too small"}, 4, digest, None)["preview"] == "spread too small"


def test_the_guarantee_is_for_each_quantity_by_itself_and_names_organs_only_with_intervals(world):
    pipeline, _, checkpoint, intervals, _ = world
    options = (pipeline.describe(), SAMPLES, sha256(checkpoint))
    both = error_bars(*options, intervals)["words"]
    assert "each tissue and organ by itself, not for all at once" in both and "organ's volume" in both
    tissues = {name: margin for name, margin in intervals.margins.items() if name in TISSUES}
    unknown_poses = replace(intervals, population=intervals.population | {"poses_known": False})
    for held, nominal, organs in (
        (intervals, True, False),
        (unknown_poses, True, True),
        (replace(intervals, margins=tissues), False, False),
    ):
        words = error_bars(*options, held, nominal)["words"]
        assert "by itself, not for all at once" in words and ("organ" in words) == organs


def test_generation_writes_the_interval_around_its_samples(world, tmp_path):
    pipeline, parts, checkpoint, intervals, _ = world
    array = (parts["t"].case(0)["xray"][0].float().numpy() * 255).astype(np.uint8)
    Image.fromarray(array).save(tmp_path / "chest.png")
    for samples, name in ((SAMPLES, "interval"), (3, "spread")):
        out = tmp_path / name
        generate(pipeline, [tmp_path / "chest.png"], out, Sampling(samples), checkpoint, intervals=intervals)
        settings = json.loads((out / "chest_settings.json").read_text())["error_bars"]
        assert settings["name"] == name
        assert (out / "chest_synthetic_lower.nii.gz").is_file() == (name == "interval")
        assert b"spread" in nib.load(out / "chest_synthetic_spread.nii.gz").header["descrip"].tobytes()
    settings = json.loads((tmp_path / "interval" / "chest_settings.json").read_text())["error_bars"]
    assert NO_GUARANTEE in settings["words"] and "organ" not in settings["words"]
    assert settings["organs"] is None and "ml" in settings["organs_reason"]
    paths = [tmp_path / "interval" / f"chest_synthetic_{n}.nii.gz" for n in ("lower", "ct", "upper")]
    low, mean, high = (nib.load(path).get_fdata() for path in paths)
    assert (low <= mean + 1).all() and (mean <= high + 1).all() and (high - low).mean() > 5


def test_a_calibration_of_earlier_versions_still_gives_evidence_maps(world, tmp_path):
    """It holds the spread of training volumes; that of the model counts more."""
    pipeline, parts, checkpoint, intervals, _ = world
    array = (parts["t"].case(0)["xray"][0].float().numpy() * 255).astype(np.uint8)
    Image.fromarray(array).save(tmp_path / "chest.png")
    assert "training_spread" not in intervals.population
    old = replace(intervals, population={**intervals.population, "training_spread": SPREAD})
    other = replace(old, checkpoint={"file": "other.ckpt", "sha256": "0"})
    for name, given, samples in (("map", old, 4), ("few", old, 3), ("other", other, 4), ("newer", intervals, 4)):
        out = tmp_path / name
        generate(pipeline, [tmp_path / "chest.png"], out, Sampling(samples), checkpoint, intervals=given)
        assert (out / "chest_synthetic_evidence.nii.gz").is_file() == (name == "map")
        assert json.loads((out / "chest_settings.json").read_text())["evidence"]["name"] == (
            "map" if name == "map" else "none"
        )
    assert read_intervals(old.write(tmp_path / "bounds.json")) == old
    own = TrainingSpread.from_numbers([1, 1, 1], [50.0], 3)
    assert training_spread_of(SimpleNamespace(training_spread=own), old, sha256(checkpoint)) is own
    damaged = replace(old, population={"training_spread": {**SPREAD, "sd": []}})
    with pytest.raises(UserError, match="the spread of training volumes is damaged"):
        read_intervals(damaged.write(tmp_path / "damaged.json"))


def test_voxel_intervals_agree_with_the_scores_of_test_cases(world):
    pipeline, parts, _, intervals, scores = world
    case = parts["t"].case(0)
    xray = case["xray"].float().unsqueeze(1)[None]
    drawn = pipeline(xray, None, SAMPLES, 0, ["t_0"], None, 64, lambda *_: None).volumes[0]
    low, high = intervals.of_voxels(drawn, SPACING, pipeline.window)
    truth = case["ct"].float().clamp(-1000, 1000)
    mine = scores[(scores.id == "t_0") & (scores.level == LEVEL)].set_index("quantity")
    for name, mask in tissue_masks(drawn.mean(dim=0), SPACING, pipeline.window).items():
        if mask.any() and name in intervals.margins:
            inside = ((truth >= low) & (truth <= high))[mask].double().mean() >= intervals.share
            assert inside == (mine.loc[name, "below"] <= intervals.margins[name]["low"]), name


def test_tissues_partition_the_volume_and_one_without_margin_gets_the_whole_window(world):
    pipeline, parts, _, intervals, _ = world
    volume = parts["t"].case(1)["ct"].float()
    volume[2:5, 10:14, 10:14] = 400.0
    masks = tissue_masks(volume, SPACING, pipeline.window)
    assert set(masks) == set(TISSUES) and (sum(mask.int() for mask in masks.values()) == 1).all()
    low, high = intervals.of_voxels(volume.expand(SAMPLES, *volume.shape).clone(), SPACING, pipeline.window)
    assert (low[masks["bone"]] == -1000).all() and (high[masks["bone"]] == 1000).all()


def test_a_window_without_air_has_no_soft_tissue_of_its_own(world):
    """Clipped air and lungs look like fat, so they are one region with it, also for files that have another."""
    *_, intervals, _ = world
    narrow, volume = Window(-200.0, 500.0), world[1]["t"].case(1)["ct"].float().clamp(-200.0, 500.0)
    volume[2:5, 10:14, 10:14] = 400.0
    masks = tissue_masks(volume, SPACING, narrow)
    assert (sum(mask.int() for mask in masks.values()) == 1).all()
    assert {name for name, mask in masks.items() if mask.any()} == {"undivided", "bone"}
    assert TITLES["undivided"] == "air, lungs and soft tissue"
    low, high = intervals.of_voxels(volume.expand(SAMPLES, *volume.shape).clone(), SPACING, narrow)
    assert "soft" in intervals.margins and (low == -200.0).all() and (high == 500.0).all()
    earlier = replace(intervals, margins={"soft": {"low": 5.0, "high": 5.0}})  # of a model in this window
    low, high = earlier.of_voxels(torch.full((SAMPLES, *volume.shape), 100.0), SPACING, narrow)
    assert (low == 95.0).all() and (high == 105.0).all()


def test_settings_that_cannot_be_calibrated_raise(world):
    pipeline, parts, checkpoint, *_ = world
    with pytest.raises(UserError, match="samples=19.*at least 20"):
        check_settings(19, 0.9, 0.9)
    with pytest.raises(UserError, match="share=1"):
        check_settings(20, 0.9, 1.0)
    both = parts["c"], parts["c"], parts["c"], checkpoint
    with pytest.raises(UserError, match="among calibration and test"):
        calibrate(pipeline, *both, Sampling(8), level=0.75)
    with pytest.raises(UserError, match="24 patients; the level 0.95 needs at least 39"):
        calibrate(pipeline, parts["c"], parts["t"], parts["c"], checkpoint, Sampling(40), level=0.95)


def test_calibration_phantoms_are_outside_the_test_split_and_real_data_must_name_a_split():
    source = {"population": {"test": 128, "test_from": 20_000_000}}
    assert calibration_source(source, None, 256, 30_000_000) == {"population": {"test": 256, "test_from": 30_000_000}}
    with pytest.raises(UserError, match="overlap the test phantoms"):
        calibration_source(source, None, 256, 20_000_100)
    with pytest.raises(UserError, match="calibration_split: missing"):
        calibration_source({"root_dir": "x"}, None, 256, 0)
    assert calibration_source({"root_dir": "x"}, "val", 256, 0) is None
    cases = chest_world(4, seed=0)
    assert len(FirstCases(cases, 3)) == 3 and len(FirstCases(cases, None)) == 4


def test_first_cases_of_patients_leave_out_further_cases():
    cases = chest_world(5, seed=0)
    cases.rows = cases.rows.assign(patient=["a", "a", "b", "a", "c"])
    chosen = FirstCases(cases, None, one_per_patient=True)
    assert list(chosen.rows["patient"]) == ["a", "b", "c"]
    assert all(torch.equal(chosen.case(i)["ct"], cases.case(j)["ct"]) for i, j in enumerate((0, 2, 4)))
    assert len(FirstCases(cases, 2, one_per_patient=True)) == 2


def test_table_and_picture_show_coverage_with_its_interval(world):
    *_, intervals, _ = world
    text = markdown(intervals)
    coverage = intervals.coverage["lungs"]
    assert f"{coverage['covered']} of 24" in text and "volume of air-filled tissue" in text and NO_GUARANTEE in text
    assert intervals.shift is None and "input shift" not in text  # of 24 training X-rays
    held = {"covered": 1, "cases": 24, "mean": 1 / 24, "low": 0.001, "high": 0.2}
    for chi2, words in (([1.0], "chi² of the first"), ([], "distance, exponent. It withholds")):
        tested = replace(intervals, shift={"chi2": chi2}, population=intervals.population | {"withheld": held})
        assert words in markdown(tested) and "1 of 24 test X-rays" in markdown(tested)
    figure = reliability_picture(intervals)
    assert len([axis for axis in figure.axes if axis.get_title()]) == len(intervals.coverage)


@pytest.fixture(scope="module")
def rare(tmp_path_factory):
    """Two of 12 calibration cases show contrast: enough for a margin at level 0.5, too few at 0.75."""
    parts = {name: apart(chest_world(12, seed=s), name) for s, name in enumerate(("c", "t"), start=5)}
    for cases in parts.values():
        for i in (2, 7):
            cases.case(i)["ct"][10:14, 11:13, 11:13] = 900
    both = FakeCases([cases.case(i) for cases in parts.values() for i in range(12)])
    pipeline = SharpPipeline(oracle(both), protocol(), noise=3.0)
    checkpoint = tmp_path_factory.mktemp("rare") / "model.ckpt"
    checkpoint.write_bytes(b"weights")
    options = {"sampling": Sampling(SAMPLES, batch_size=64), "level": LEVEL, "population": {"dataset": "chests"}}
    return checkpoint, *calibrate(pipeline, parts["c"], parts["t"], parts["c"], checkpoint, **options)


def test_a_tissue_that_is_too_rare_for_the_level_has_no_panel(rare):
    _, intervals, _ = rare
    levels = {row["level"] for row in intervals.reliability if row["quantity"] == "vessels"}
    assert 0.5 in levels and LEVEL not in levels and "vessels" not in intervals.margins
    titles = [axis.get_title() for axis in reliability_picture(intervals).axes if axis.get_title()]
    assert len(titles) == len(intervals.coverage) and not any("vessels" in title for title in titles)


def test_intervals_and_their_report_are_written(rare, tmp_path):
    checkpoint, intervals, scores = rare
    written = write_calibration(intervals, scores, tmp_path / "whole", tmp_path / "whole.bounds.json")
    assert written == tmp_path / "whole.bounds.json" and read_intervals(written) == intervals
    names = {path.name for path in (tmp_path / "whole").iterdir()}
    assert names == {"bounds_scores.csv", "bounds.md", "reliability.png"}


@pytest.mark.slow
def test_the_heart_regressor_is_better_than_the_mean():
    cases = []
    for index in range(180):
        drawn = render_phantom(index, seed=3, size=(32, 32, 32))
        tensors = {"ct": torch.tensor(drawn.hu), "labels": torch.tensor(drawn.labels)}
        cases.append(tensors | {"spacing": torch.tensor(drawn.spacing)})
    window = FakePipeline(None, protocol()).window
    heart = fit_heart_regressor(FakeCases(cases[:150]), window)
    again = HeartVolumeRegressor(**asdict(heart))
    truth = np.array([true_volumes(c)["heart_volume"] for c in cases[150:]])
    found = np.array([again(c["ct"].float().clamp(-1000, 1000), tuple(c["spacing"].tolist())) for c in cases[150:]])
    assert np.abs(found - truth).mean() < 0.7 * np.abs(truth - truth.mean()).mean()
    assert fit_heart_regressor(FakeCases(cases[: FEWEST - 1]), window) is None
    assert set(true_volumes(cases[0])) == set(ORGANS)
