"""A calibration with a curve of evidence, and where generation and evaluation use it."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from evaluation_fakes import FakeCases, FakeDataModule, FakePipeline, chest_world, evaluate, oracle, protocol
from PIL import Image

from common.errors import UserError
from common.files import sha256
from ddpm.diffusion.training_spread import ESTIMATE, TrainingSpread
from evaluation.calibration.calibrate_intervals import calibrate
from evaluation.calibration.report import markdown
from evaluation.generation.sample import Sampling
from evaluation.generation.write_volumes import generate
from evaluation.intervals.prediction_intervals import calibration_path, read_intervals

SAMPLES, SPREAD, ERROR = 4, 10.0, 40.0  # HU: the error is 4 times the spread of the samples


def erring(answer):
    """An error of each X-ray that all its samples share."""

    def wrong(xray: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(int(1e4 * float(xray.sum())))
        volume = answer(xray)
        return volume + ERROR * torch.randn(volume.shape, generator=generator)

    return wrong


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    parts = [chest_world(12, seed) for seed in (1, 2)]
    for cases, name in zip(parts, "ct", strict=True):
        cases.rows["patient"] = [f"{name}{i}" for i in range(len(cases))]
    both = FakeCases([cases.case(i) for cases in parts for i in range(len(cases))])
    pipeline = FakePipeline(erring(oracle(both)), protocol(), noise=SPREAD)
    rng = torch.Generator().manual_seed(7)
    hu = [both.case(i)["ct"].float() + 60.0 * torch.randn(24, 24, 24, generator=rng) for i in range(len(both))]
    pipeline.training_spread = TrainingSpread.fit(((v, None) for v in hu), pipeline.window, {"patients": 24})
    checkpoint = tmp_path_factory.mktemp("model") / "model.ckpt"
    checkpoint.write_bytes(b"weights")
    options = {"sampling": Sampling(SAMPLES, batch_size=64), "level": 0.5, "population": {"dataset": "chests"}}
    intervals, _ = calibrate(pipeline, *parts, parts[0], checkpoint, **options)
    return pipeline, parts, checkpoint, intervals


def with_evidence(intervals, evidence):
    return replace(intervals, population=intervals.population | {"evidence": evidence})


def test_the_curve_corrects_maps_of_test_cases_that_claim_too_much(world):
    *_, intervals = world
    found = intervals.population["evidence"]["reliability"]
    assert intervals.evidence_curve.cases == 12 and found["samples"]["cases"] == 12
    assert found["samples"]["gap"] > 0.06 and found["calibrated"]["gap"] < 0.03
    text = markdown(intervals)
    assert "the curve of 12 calibration cases" in text and text.count("| 90 to 100 |") == 1


def test_files_and_settings_hold_the_calibrated_map_where_the_calibration_applies(world, tmp_path):
    pipeline, parts, checkpoint, intervals = world
    array = (parts[1].case(0)["xray"][0].float().numpy() * 255).astype(np.uint8)
    Image.fromarray(array).save(tmp_path / "chest.png")
    found = {}
    cases = {"with": (intervals, SAMPLES), "old": (with_evidence(intervals, None), SAMPLES), "more": (intervals, 6)}
    for name, (held, samples) in cases.items():
        out = tmp_path / name
        generate(pipeline, [tmp_path / "chest.png"], out, Sampling(samples), checkpoint, intervals=held)
        image = nib.load(out / "chest_synthetic_evidence.nii.gz")
        settings = json.loads((out / "chest_settings.json").read_text())["evidence"]
        found[name] = image.get_fdata(), image.header["descrip"].tobytes(), settings
    (percent, mark, settings), (plain, plain_mark, plain_settings) = found["with"], found["old"]
    assert (percent[plain >= 0] <= plain[plain >= 0]).all() and (percent[plain < 0] == -1).all()
    assert percent[plain >= 0].mean() < plain[plain >= 0].mean() - 10
    assert b"; calibrated evidence, %: 0 invented, -1 undefined" in mark and b"calibrated" not in plain_mark
    assert settings["calibrated_on"] == 12 and "calibrated on 12 cases" in settings["words"]
    assert plain_settings["calibrated_on"] is None and "no curve for this estimate" in plain_settings["words"]
    assert "not calibrated (calibrated for samples 4, drawn with samples 6)" in found["more"][2]["words"]


def test_the_report_of_an_evaluation_says_that_its_maps_are_calibrated(world, tmp_path):
    pipeline, parts, checkpoint, intervals = world
    data = FakeDataModule(chest_world(2, 5), chest_world(2, 6), parts[1])
    options = {"samples": SAMPLES, "nifti": 0, "methods": ("model",), "metrics": ["psnr", "spread_over_error"]}
    results = {}
    for name, held in (("with", intervals), ("none", None)):
        results[name] = evaluate(
            data, pipeline, tmp_path / name, checkpoint=checkpoint, intervals=held, report=name == "with", **options
        )["evidence_reliability"]
    assert results["with"]["calibrated_on"] == 12 and results["none"]["calibrated_on"] is None
    assert results["with"]["gap"] < 0.03 < 0.06 < results["none"]["gap"]
    assert "Maps calibrated on 12 other cases." in (tmp_path / "with" / "report.html").read_text()


def test_the_file_round_trips_and_a_damaged_curve_is_refused(world, tmp_path):
    _, _, checkpoint, intervals = world
    path = intervals.write(calibration_path(tmp_path / "model.ckpt"))
    assert read_intervals(path) == intervals and intervals.checkpoint["sha256"] == sha256(checkpoint)
    curve = intervals.population["evidence"]["curve"] | {
        "uncalibrated": [0.5] * len(intervals.evidence_curve.uncalibrated)
    }
    earlier = with_evidence(intervals, {"curve": intervals.population["evidence"]["curve"]})
    assert earlier.evidence_curve is None  # of a file from before maps were moved towards the mean of the volume
    damaged = with_evidence(intervals, {"estimate": ESTIMATE, "curve": curve})
    with pytest.raises(UserError, match="bounds=.*the curve of evidence is damaged"):
        read_intervals(damaged.write(tmp_path / "damaged.json"))


def test_too_few_samples_give_no_curve(world):
    pipeline, parts, checkpoint, _ = world
    intervals, _ = calibrate(pipeline, *parts, parts[0], checkpoint, Sampling(3, batch_size=64), level=0.01)
    assert intervals.population["evidence"] is None and intervals.evidence_curve is None
