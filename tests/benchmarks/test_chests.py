"""The chest benchmark: splits of a fold, fixed lengths, ridge by the other patients, gaps, goals, tables."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image

from benchmarks.chests import fold, predict, run, sheet, table, training
from benchmarks.chests.freeze import METRICS, POSES, changed_pose
from benchmarks.chests.variants import MAIN, POPULATIONS, PRETRAINED, ROWS, labels
from common.cli import CONFIG
from dataset.imaging.geometry import camera_axes, make_pose
from dataset.imaging.hu_window import Window
from ddpm.pipeline import XrayToCTPipeline  # noqa: F401  the benchmark opens it by name
from evaluation.scoring.frozen_protocol import FrozenProtocol

PATIENTS = [f"p{i}" for i in range(7)]
SIZE = 16


@pytest.fixture
def protocol(tmp_path, monkeypatch) -> FrozenProtocol:
    content = {"name": "test", "version": 1, "sizes": [SIZE], "window": "wide", "metrics": list(METRICS)}
    content |= {"selection": PATIENTS[:4], "held_out": PATIENTS[4:], "poses": dict.fromkeys(POSES)}
    generator = torch.Generator().manual_seed(0)
    noise = {name: torch.rand(4, 4, 4, generator=generator) for name in PATIENTS}

    def truth(self, patient, size):
        hu = torch.full((size,) * 3, -1000.0)
        hu[:, 2:-2, 2:-2] = 40.0
        grown = torch.nn.functional.interpolate(noise[patient][None, None], size=size)[0, 0]
        scanned = torch.ones(hu.shape, dtype=torch.bool)
        return {
            "ct": hu + 100.0 * grown,
            "scanned": scanned,
            "spacing": torch.full((3,), 20.0),
            "centre": torch.zeros(3),
        }

    monkeypatch.setattr(FrozenProtocol, "truth", truth)
    monkeypatch.setattr(FrozenProtocol, "xray", lambda self, patient, pose: noise[patient].mean(dim=1))
    monkeypatch.setattr(FrozenProtocol, "pose", lambda self, patient, pose: make_pose((320.0,) * 3)[None])
    return FrozenProtocol(tmp_path, content)


def options(*words):
    return run.parse(list(words))


def test_the_tested_patient_and_surplus_parents_are_in_the_test_split(protocol):
    def test_split(name: str, patient: str) -> set[str]:
        words = training.data_overrides(options("--morphs", "9"), protocol, patient, POPULATIONS[name])
        assert "dataset.morphs=9" in words and words[0] == "dataset=chests"
        split = next(word for word in words if word.startswith("dataset.test_patients="))
        return set(split.partition("=[")[2].rstrip("]").split(","))

    assert test_split("morphs", "p2") == {"p2"}
    assert test_split("parents_2", "p2") == set(PATIENTS) - {"p3", "p4"}
    assert test_split("parents_4", "p6") == {"p6", "p4", "p5"}
    for own, start in PRETRAINED.items():  # with the tested one all seven, each in one of the three
        trained = [set(PATIENTS) - test_split(name, "p5") for name in (own, start)]
        assert set.union({"p5"}, *trained) == set(PATIENTS) and not set.intersection(*trained)
    mixed = training.data_overrides(options("--phantoms", "7"), protocol, "p0", POPULATIONS["mixed"])
    assert "dataset.phantoms=7" in mixed


def test_poses_turn_the_beam_and_keep_the_detector():
    nominal = make_pose((300.0, 250.0, 350.0))
    for change in POSES.values():
        pose = changed_pose(nominal, change)
        angle = torch.rad2deg(torch.arccos((camera_axes(nominal)[0] @ camera_axes(pose)[0]).clamp(max=1.0)))
        assert float(angle) == pytest.approx(np.hypot(change.get("azimuth", 0), change.get("elevation", 0)), abs=0.05)
        assert torch.equal(pose[[0, 1, 7, 8]], nominal[[0, 1, 7, 8]])
    assert POSES["pa"] == {}


def test_the_length_is_named_or_follows_from_one_measurement(protocol, tmp_path, monkeypatch):
    calls = []

    def fake(script, *overrides, capture=False):
        calls.append(script)
        return "median 100.0 ms a batch" if "vqgan" in script else "median 50.0 ms a batch"

    monkeypatch.setattr(training, "run", fake)
    monkeypatch.setattr(training, "milliseconds_a_step", lambda size: 1000.0)
    named = options("--steps", "30", "--vqgan-steps", "20")
    assert training.planned(named, tmp_path, [], []) == training.Steps(20, 30, 30)
    for _ in range(2):
        found = training.planned(options("--minutes", "10"), tmp_path, [], [])
    assert found == training.Steps(600, 10800, 600) and len(calls) == 2  # 10 % and 90 % of ten minutes


def test_a_finished_training_is_not_repeated_and_another_one_is_refused(tmp_path, monkeypatch):
    calls = []

    def fake(script, *overrides, capture=False):
        calls.append(overrides)
        runs = next(word.partition("=")[2] for word in overrides if "results_folder=" in word)
        path = training.Path(runs) / "run" / "last.ckpt"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"")

    monkeypatch.setattr(training, "run", fake)
    plain, first = options(), ROWS["phantoms_first"]
    for _ in range(2):
        last = training.trained_ddpm(
            plain, tmp_path, "phantoms_first", first, ["dataset=chests"], tmp_path / "v.ckpt", 11
        )
    assert len(calls) == 2 and last.name == "last.ckpt"
    assert "dataset=phantom" in calls[0] and "model.train_num_steps=5" in calls[0]
    assert any(word.startswith("model.init_from=") for word in calls[1]) and "model.train_num_steps=6" in calls[1]
    tuned = ROWS["tuned_own_2"]
    with pytest.raises(SystemExit, match="--rows parents_4 first"):
        training.trained_ddpm(plain, tmp_path, "tuned_own_2", tuned, ["dataset=chests"], None, 11)
    (tmp_path / "parents_4").mkdir()
    (tmp_path / "parents_4" / "trained.json").write_text('{"checkpoint": "other.ckpt"}')
    training.trained_ddpm(plain, tmp_path, "tuned_own_2", tuned, ["dataset=chests"], None, 11)
    assert "model.init_from=other.ckpt" in calls[-1] and not any("vqgan_ckpt" in word for word in calls[-1])
    with pytest.raises(SystemExit, match="another recipe or length"):
        training.trained_ddpm(plain, tmp_path, "phantoms_first", first, ["dataset=chests"], tmp_path / "v.ckpt", 15)


def test_a_row_of_other_options_is_refused(tmp_path):
    stored = tmp_path / "model.csv"
    facts = run._facts(options("--steps", "200"))
    stored.with_suffix(".json").write_text(json.dumps({**facts, "machine": "another", "steps": {}}))
    run._expect_same(stored, facts)
    for words in (["--steps", "2000"], ["--steps", "200", "--seed", "1"], ["--steps", "200", "--morphs", "9"]):
        with pytest.raises(SystemExit, match=r"model.csv: scored with other options \(.* was .*, is .*\); remove it"):
            run._expect_same(stored, run._facts(options(*words)))


def test_options_keep_stages_apart(protocol, monkeypatch):
    monkeypatch.setattr(run, "read_protocol", lambda name: protocol)
    with pytest.raises(SystemExit, match="p5 is not in the stage selection"):
        run.main(["--folds", "5"])
    for words in (["--rows", "nothing"], ["--train", "model.dim=8"], ["--name", "idea", "--rows", "model", "peer"]):
        with pytest.raises(SystemExit):
            run.parse(words)
    assert run.parse([]).rows == list(MAIN)


class Pipeline:
    """Answers with the row means of the X-ray in HU and noise."""

    window, volume_size, extent = Window.parse("wide"), (8, 8, 8), (320.0, 320.0, 320.0)
    protocol: dict = {}  # noqa: RUF012

    def describe(self) -> dict:
        return {"antithetic": False}

    def __call__(self, xray, pose, num_samples, seed, ids, extent, batch_size, progress, allow_any_picture):
        progress(1, 1)
        assert torch.allclose(extent, torch.full((3,), 320.0))  # that of the case, whatever the size of the pipeline
        noise = 50.0 * torch.randn(len(xray), num_samples, 8, 8, 8, generator=torch.Generator().manual_seed(seed))
        return SimpleNamespace(
            volumes=1000.0 * xray.mean(dim=(1, 2, 3, 4)).view(-1, 1, 1, 1, 1) - 500.0 + noise,
            first_chi2=None,
            chi2=None,
            films=None,
        )


def test_a_fold_scores_the_mean_one_sample_and_another_patients_xrays(protocol):
    own = fold.patient_cases(protocol, "p1", SIZE)
    found = predict.diffusion(Pipeline(), "model", own, samples=4, seed=0)
    assert found.volumes["model"].shape == (5, SIZE, SIZE, SIZE) and set(found.volumes) == {"model", "model_sample"}
    scores = fold.score(own, found, protocol)
    assert list(scores[scores.method == "model"].pose) == list(POSES) and set(scores.population) == {fold.PATIENT}
    means = scores.groupby("method")[["crps", "mae_hu", "psnr"]].mean()
    assert means.crps["model_sample"] == pytest.approx(means.mae_hu["model_sample"])
    assert means.crps["model"] < means.mae_hu["model"] and means.psnr["model"] > means.psnr["model_sample"]
    shuffled = fold.with_xrays_of(own, protocol, "p2")
    assert torch.equal(shuffled.cases[0]["xray"], protocol.xray("p2", "pa")[None])
    assert torch.equal(shuffled.cases[0]["ct"], own.cases[0]["ct"])


def rows_of(folder, patient, name, **methods):
    """Stores a row of scores as `run.main` does; a method has PSNR on the patient and on morphs."""
    records = [
        {"population": population, "id": f"{patient}_{pose}", "patient": patient, "pose": pose, "method": method}
        | {"psnr": value, "psnr_body": value - 2.0, "lung_dice": 0.9}
        for method, values in methods.items()
        for population, value in zip((fold.PATIENT, fold.MORPHS), values, strict=True)
        for pose in POSES
    ]
    path = folder / patient / "rows" / f"{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(records).to_csv(path, index=False)


def test_tables_show_patients_the_gap_and_the_goals(protocol, tmp_path):
    for i, patient in enumerate(PATIENTS[:3]):
        rows_of(tmp_path, patient, "model", model=(17.0 + i, 20.0), model_shuffled_xray=(14.0, 15.0))
        ridges = {"ridge@1": (16.0 + i, 18.0), "ridge@10": (16.5 if i else 12.0, 18.0), "mean_volume": (15.0, 16.0)}
        rows_of(tmp_path, patient, "baselines", **ridges)
    result = table.write(tmp_path, protocol, tmp_path / "out", {"machine": "a machine"})
    by = pd.DataFrame(result["patients"]).set_index(["method", "patient"]).psnr
    # p0: 1 and 10 are at 17.5 and 16.5 for p1 and p2; p1: 17 and 14.25 for p0 and p2
    assert (by["ridge", "p0"], by["ridge", "p1"], by["model", "median patient"]) == (16.0, 17.0, 18.0)
    assert result["ridge_penalties"] == {"p0": "1", "p1": "1", "p2": "1"}
    gaps = {entry["method"]: entry for entry in result["gaps"]}
    assert gaps["model"]["gap"] == pytest.approx(2.0) and gaps["model"][fold.PATIENT] == 18.0
    reached = {entry["goal"]: entry["found"] for entry in result["goals"]}
    assert reached["psnr above ridge regression, dB"] == pytest.approx(1.0)
    assert reached["psnr above weights trained on phantoms, dB"] is None
    text = (tmp_path / "out" / "results.md").read_text()
    assert "| model, mean of samples | p0 | 17.00 | 15.00 |" in text and "not measured" in text
    for name in ("results.csv", "results.tex", "results_selection.tex", "results.json"):
        assert (tmp_path / "out" / name).stat().st_size > 0
    assert json.loads((tmp_path / "out" / "results.json").read_text())["protocol"]["machine"] == "a machine"


def test_without_another_patient_the_penalty_is_fixed(protocol, tmp_path):
    rows_of(tmp_path, "p0", "baselines", **{"ridge@1": (16.0, 18.0), "ridge@10": (19.0, 18.0)})
    found = table.with_ridge(table.read_scores(tmp_path), protocol)
    assert set(found.method) == {"ridge"} and set(found[found.population == fold.PATIENT].psnr) == {16.0}
    with pytest.raises(SystemExit, match="no scores"):
        table.read_scores(tmp_path / "nothing")


def test_the_sheet_has_a_row_for_each_patient(protocol, tmp_path):
    volume = torch.full((SIZE,) * 3, -200.0)
    for patient in ("p0", "p4"):
        (tmp_path / patient / "rows").mkdir(parents=True)
        sheet.save_volumes(tmp_path / patient / "rows" / "model.safetensors", {"model": volume})
        sheet.save_volumes(
            tmp_path / patient / "rows" / "baselines.safetensors", {"ridge@1": volume, "mean_volume": volume}
        )
    picture = sheet.patient_sheet(tmp_path, protocol, SIZE, dict.fromkeys(PATIENTS, "ridge@1"))
    assert isinstance(picture, Image.Image) and picture.height > 2 * sheet.CELL
    assert sheet.patient_sheet(tmp_path / "p0", protocol, SIZE, {}) is None


def test_every_method_of_every_row_has_a_title():
    titles = labels()
    for name in ("model", "model_sample", "model_shuffled_xray", "regression", "ridge", "ridge_mixed", "peer"):
        assert titles[name]
    assert set(POPULATIONS) >= {row.population for row in ROWS.values()}
    assert len(set(titles.values())) == len(titles)


def test_unseen_morphs_are_those_with_parents():
    ids = ["p0", "morph_00000000", "p1", "morph_00000001", "morph_00000002"]
    rows = pd.DataFrame({"id": ids, "parents": ["", "p0;p1", np.nan, "p1", "p0"]})
    found = fold.morph_cases(SimpleNamespace(rows=rows, case=lambda i: {"number": i}), 2)
    assert found.ids == ["morph_00000000", "morph_00000001"] and found.population == fold.MORPHS
    assert [case["number"] for case in found.cases] == [1, 3]


def test_training_cases_have_no_noise_as_the_frozen_xrays_and_keep_their_keys(protocol, monkeypatch, tmp_path):
    """The recorded recipe of a training does not name it, so that trainings of earlier versions count as they are."""
    ran = []
    monkeypatch.setattr(training, "run", lambda *words, **_: ran.append(words))
    monkeypatch.setattr(training, "newest_checkpoint", lambda folder: tmp_path)
    words = training.data_overrides(options("--morphs", "9"), protocol, "p2", POPULATIONS["mixed"])
    training.trained_vqgan(options(), tmp_path, "mixed", words, 5)
    assert training.NOISE_FREE in ran[0] and "drr_photons" not in (tmp_path / "vqgan_mixed/trained.json").read_text()
    with initialize_config_dir(str(CONFIG), version_base="1.3"):
        noisy, quiet = (compose("train_ddpm", [*first, "dataset=chests"]) for first in ([], [training.NOISE_FREE]))
    sources = [instantiate(cfg.dataset.source) for cfg in (noisy, quiet)]
    assert [source.forward_model()["photons"] for source in sources] == [800_000.0, None]
    # what the key of a case says about its DRR, as before there was noise
    assert sources[1].drr.describe() == {
        "view": "PA",
        "source_detector": None,
        "field": None,
        "image": "log",
        "remove_iodine": False,
    }
