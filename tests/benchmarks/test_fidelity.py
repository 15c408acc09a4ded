"""The fidelity benchmark: its commands compose, rows merge, differences and hypotheses follow the scores."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from phantom_sources import phantom_source

from benchmarks.fidelity import hypotheses, table
from benchmarks.fidelity.render_xrays import render
from benchmarks.fidelity.run import plan, refuse_stale, train
from benchmarks.fidelity.stored_xrays import StoredXrayPhantoms, read_xray_row, stored_xrays, write_xrays
from benchmarks.fidelity.variants import BASELINES, Method, methods
from common.errors import UserError
from common.files import ROOT, sha256
from dataset.imaging.drr_options import DrrSettings
from evaluation.scoring.score_cases import TRUTH

PROTOCOL = {
    "steps": 12,
    "samples": 8,
    "cases": 20,
    "sampler": "LogSNRSolver",
    "parameters": {"denoiser": 5_000_000, "prior": 1_000_000},
    "timings_s": {"generation": 80.0},
    "window": [-1000.0, 1000.0],
}


def put(home, method: str, psnr, seed: int | None = 0, **columns):
    """Stores a row of the benchmark as `collect` does."""
    cases = pd.DataFrame({"id": [f"p{i}" for i in range(len(psnr))], "psnr": psnr, **columns})
    cases = cases.assign(patient=cases["id"], method=method)
    facts = {"method": method, "seed": seed, "machine": "a machine", "minutes": 20.0, "batches": 100}
    rows = table.load(64, home)
    rows[method if seed is None else f"{method}_{seed}"] = ({**facts, "protocol": PROTOCOL}, cases)
    table.save(rows, 64, home)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("home")
    rng = np.random.default_rng(0)
    base = 24.0 + rng.normal(size=20)
    for seed in (0, 1):
        spectra = {"gradient_spectrum": 3.0 + 0.1 * rng.normal(size=20)}
        put(tmp_path, "model", base + 0.1 * seed + 0.05 * rng.normal(size=20), seed)
        put(tmp_path, "model_sample", base - 1.0, seed, **spectra)
        put(tmp_path, "regression", base + 0.4, seed, gradient_spectrum=6.0)
        put(tmp_path, "xray2ctpa", base - 5.0 + rng.normal(size=20), seed)
    put(tmp_path, "ridge", base - 0.9 + 0.3 * rng.normal(size=20), None)
    put(tmp_path, "nearest", base - 0.05 + rng.normal(size=20), None)
    put(tmp_path, "mean_volume", base - 6.0, None)
    put(tmp_path, "shuffled_xray", base - 8.0)
    put(tmp_path, "xray2ctpa_1000", base[:8] - 5.5)
    put(tmp_path, TRUTH, [np.nan] * 20, None, reprojection=0.01)
    return tmp_path


@pytest.fixture(scope="module")
def result(home):
    """The written results, once for all tests: each comparison resamples patients and seeds."""
    table.write(64, home)
    return json.loads((home / "results.json").read_text())


def test_results_have_the_form_of_metrics_json(home, result):
    assert {"protocol", "methods", "reference", "differences", "hypotheses"} == set(result)
    assert set(result["methods"]["model"]["psnr"]) == {"mean", "low", "high"}
    assert set(result["reference"]) == {TRUTH} and TRUTH not in result["methods"]
    rows = result["protocol"]["rows"]
    assert rows["model"]["estimator"] == "mean of 8 samples" and rows["model_sample"]["estimator"] == "one sample"
    assert rows["ridge"]["estimator"] == rows["regression"]["estimator"] == "point"
    assert (rows["model"]["evaluations"], rows["model_sample"]["evaluations"], rows["ridge"]["evaluations"]) == (
        96,
        12,
        0,
    )
    assert rows["model"]["seconds"] == 4.0 and rows["model_sample"]["seconds"] == 0.5
    assert rows["model"]["parameters"] == 6_000_000 and rows["model"]["seeds"] == [0, 1]
    text = (home / "results.md").read_text()
    assert "| mean of 8 samples |" in text and "20 min, 100, 100 batches" in text


def test_a_mean_is_over_cases_and_seeds_and_a_difference_is_paired(home, result):
    found = table.read(64, home)
    runs = [run.psnr for _, run in found["model"]]
    assert result["methods"]["model"]["psnr"]["mean"] == pytest.approx(np.mean(runs), abs=1e-5)
    psnr = result["differences"]["model - regression"]["psnr"]
    assert psnr["mean"] == pytest.approx(-0.35, abs=0.03)
    assert psnr["low"] < -0.5 and psnr["high"] > -0.2 and psnr["p_holm"] > 0.05  # two seeds that differ by 0.1 dB
    assert result["differences"]["model - shuffled_xray"]["psnr"]["p_holm"] is None  # one seed in common
    assert np.mean(psnr["by_seed"]) == pytest.approx(psnr["mean"], abs=1e-3) and psnr["seed_std"] > 0.05
    assert result["differences"]["model_sample - xray2ctpa_1000"]["psnr"]["cases"] == 8


def test_training_seeds_are_paired_by_their_number(tmp_path):
    """Not by their position: a row may lack a seed, and model_10 comes before model_2."""
    for seed in (1, 2, 10):
        put(tmp_path, "model", [24.0 + seed, 25.0 + seed], seed)
    for seed in (2, 3, 10):
        put(tmp_path, "regression", [23.0 + 2 * seed, 24.0 + 2 * seed], seed)
    put(tmp_path, "ridge", [20.0, 21.0], None)
    put(tmp_path, "xray2ctpa", [15.0, 16.0], 2)
    found = table.read(64, tmp_path)
    for other, expected in (("regression", [-1.0, -9.0]), ("ridge", [5.0, 6.0, 14.0]), ("xray2ctpa", None)):
        assert table.difference(found["model"], found[other], "psnr").get("by_seed") == expected


def test_a_seed_without_partner_does_not_change_a_difference(tmp_path):
    put(tmp_path, "whole_8min", [24.0, 25.0], 0)
    put(tmp_path, "no_lifting", [23.0, 24.0], 0)
    before = table.difference(*(table.read(64, tmp_path)[name] for name in ("whole_8min", "no_lifting")), "psnr")
    put(tmp_path, "whole_8min", [14.0, 15.0], 1)
    put(tmp_path, "flow", [13.5, 14.5], 1)
    put(tmp_path, "model", [20.0, 21.0], 2)
    found = table.read(64, tmp_path)
    assert table.difference(found["whole_8min"], found["no_lifting"], "psnr") == before
    assert table.difference(found["whole_8min"], found["flow"], "psnr")["mean"] == pytest.approx(0.5)
    assert table.difference(found["model"], found["flow"], "psnr")["mean"] == pytest.approx(6.5)  # none in common: all
    rows = {"model": {"seeds": [2]}, "flow": {"seeds": [1]}, "ridge": {"seeds": [None]}}
    notes = [table._seeds(pair, rows) for pair in ("model - flow", "flow - flow", "model - ridge")]
    assert notes == ["no seed in common", "one seed", "one seed"]


def test_a_difference_across_machines_has_a_note():
    rows = {
        "model": {"seeds": [0, 1], "machines": ["a", "b"]},
        "flow": {"seeds": [1], "machines": ["b"]},
        "xray2ctpa": {"seeds": [0, 1], "machines": ["a", "a"]},
        "ridge": {"seeds": [None], "machines": ["c"]},
    }
    notes = [table._machines(f"model - {other}", rows) for other in ("flow", "xray2ctpa", "ridge")]
    assert notes == ["", "; different machines", ""]


def test_p_values_are_adjusted_for_several_comparisons(home, result):
    found = table.read(64, home)
    for name, metrics in result["differences"].items():
        one, other = name.split(" - ")
        alone = table.difference(found[one], found[other], "psnr")["p"]
        assert (alone is None) == (metrics["psnr"]["p_holm"] is None) and (
            alone is None or metrics["psnr"]["p_holm"] >= alone
        )


def test_hypotheses_are_shown_not_shown_or_not_reached(result):
    entries = result["hypotheses"]
    verdicts = {entry["words"]: entry["verdict"] for entry in entries}
    by_pair = {(e["one"], e["other"], e["metric"]): e["verdict"] for e in entries}
    assert by_pair["model", "regression", "psnr"] == "not shown"  # 0.35 below, 0.6 allowed, seeds differ by 0.1
    assert by_pair["model", "ridge", "psnr"] in ("not shown", "not reached")  # 0.95 above, 1 wanted
    assert by_pair["model", "nearest", "psnr"] in ("not shown", "not reached")
    assert by_pair["model", "mean_volume", "psnr"] == "shown"
    assert by_pair["model", "shuffled_xray", "psnr"] == "one training seed"
    assert by_pair["model_sample", "xray2ctpa", "psnr"] in ("shown", "not shown")  # as its two seeds differ
    assert by_pair["model_sample", "regression", "gradient_spectrum"] == "shown"  # lower is nearer
    assert by_pair["model_sample", "regression", "noise_power_spectrum"] == "not measured"
    assert verdicts["with unknown poses it is above the same network without lifting"] == "not measured"
    text = "\n".join(hypotheses.sentences(entries))
    assert "**not shown**: the mean of 8 samples is at most 0.6 dB below regression: -0.3" in text


@pytest.mark.parametrize(
    ("mean", "low", "high", "p", "metric", "margin", "expected"),
    [
        (1.2, 1.1, 1.3, 0.01, "psnr", 1.0, "shown"),
        (1.2, 0.9, 1.5, 0.01, "psnr", 1.0, "not shown"),
        (1.2, 1.1, 1.3, 0.2, "psnr", 1.0, "not shown"),
        (1.2, 1.1, 1.3, None, "psnr", 1.0, "one training seed"),
        (0.9, 0.8, 1.0, 0.01, "psnr", 1.0, "not reached"),
        (-1.0, -1.5, -0.5, 0.01, "gradient_spectrum", 0.0, "shown"),
        (1.0, 0.5, 1.5, 0.01, "gradient_spectrum", 0.0, "not reached"),
    ],
)
def test_a_verdict_needs_interval_and_p_value(mean, low, high, p, metric, margin, expected):
    entry = {"difference": {"mean": mean, "low": low, "high": high}, "p_holm": p, "metric": metric, "margin": margin}
    assert hypotheses.verdict(entry) == expected


def test_collecting_again_changes_nothing_and_another_seed_is_added(tmp_path):
    evaluated = tmp_path / "evaluated"
    evaluated.mkdir()
    scores = pd.DataFrame({"id": ["a", "b", "a", "b"], "patient": ["a", "b"] * 2, "psnr": [20.0, 22.0, 18.0, 19.0]})
    scores.assign(method=["model", "model", "ridge", "ridge"]).to_csv(evaluated / "cases.csv", index=False)
    (evaluated / "metrics.json").write_text(json.dumps({"protocol": PROTOCOL}))
    method = Method((), (), {"model": "model", "ridge": "ridge"}, 20.0)
    trained = {"minutes": 20.0, "batches": 7, "machine": "a machine"}
    table.collect("model", method, 64, 0, trained, evaluated, tmp_path)
    first = (tmp_path / "results.json").read_text()
    table.collect("model", method, 64, 0, trained, evaluated, tmp_path)
    assert (tmp_path / "results.json").read_text() == first
    table.collect("model", method, 64, 1, trained, evaluated, tmp_path)
    rows = json.loads((tmp_path / "results.json").read_text())["protocol"]["rows"]
    assert rows["model"]["seeds"] == [0, 1] and rows["ridge"]["seeds"] == [None]
    table.collect("model", method, 128, 0, trained, evaluated, tmp_path)
    assert (tmp_path / "results_128.json").is_file()


def test_a_budget_is_measured_once_and_another_recipe_is_refused(tmp_path):
    (tmp_path / "plan.json").write_text(json.dumps({"ms": 100.0, "batches": 1}))
    budget = plan(methods(64)["model"], 2.0, tmp_path, [])
    assert budget["batches"] == 1200 and budget["minutes"] == 2.0
    recipe = ["model.dim=32"]
    (tmp_path / "trained.json").write_text(json.dumps({**budget, "checkpoint": "x.ckpt", "recipe": recipe}))
    assert train(budget, tmp_path, [], recipe)["checkpoint"] == "x.ckpt"
    with pytest.raises(SystemExit, match="trained by another recipe"):
        train(budget, tmp_path, [], ["model.dim=64"])
    with pytest.raises(SystemExit, match="trained for 2 minutes, asked for 3"):
        train({**budget, "minutes": 3.0}, tmp_path, [], recipe)


def test_scores_of_an_earlier_training_are_refused(tmp_path):
    checkpoint = tmp_path / "last.ckpt"
    checkpoint.write_bytes(b"first")
    protocol = {"checkpoint": {"file": "last.ckpt", "sha256": sha256(checkpoint)}}
    (tmp_path / "metrics.json").write_text(json.dumps({"protocol": protocol}))
    refuse_stale(tmp_path, checkpoint)
    checkpoint.write_bytes(b"second")
    with pytest.raises(SystemExit, match="has the scores of another training than .*last.ckpt; remove it"):
        refuse_stale(tmp_path, checkpoint)


def test_measured_coverage_becomes_a_sentence(tmp_path):
    share = {"mean": 0.91, "low": 0.85, "high": 0.95, "covered": 116, "cases": 128}
    bone, air = share | {"mean": 0.78, "covered": 100}, share | {"mean": 0.70, "covered": 90}
    margins = dict.fromkeys(("lungs", "bone", "air"), {"cases": 256})
    held = {"level": 0.9, "coverage": {"lungs": share, "bone": bone, "air": air}, "margins": margins}
    (tmp_path / "bounds_64.json").write_text(json.dumps(held))
    found = hypotheses.coverage_hypotheses(tmp_path / "bounds_64.json")
    verdicts = [entry["verdict"] for entry in found]
    assert [verdict.partition(" (p ")[0] for verdict in verdicts] == [
        "compatible with the level",
        *["below the level"] * 2,
    ]
    assert BASELINES and "interval of lungs, level 0.9" in "\n".join(hypotheses.sentences(found))


def test_rendered_xrays_equal_those_of_the_data_set(tmp_path):
    index, size = 20_000_001, (24, 24, 24)
    source = phantom_source(train=1, val=0, test=2, seed=1, volume_size=size, xray_size=(16, 16))
    threads = torch.get_num_threads()
    xray = render((index, source))
    torch.set_num_threads(threads)  # a worker of the script renders with one
    write_xrays(tmp_path / "xrays.safetensors", [7, index], torch.stack([torch.zeros_like(xray), xray]))
    own = source.build(source.rows.iloc[-1])["xray"].float()
    stored = read_xray_row(tmp_path / "xrays.safetensors", index, (1, 16, 16))
    assert own.std() > 0.1
    torch.testing.assert_close(stored.reshape(own.shape), own, rtol=0, atol=1 / 255)
    overrides = ["dataset=phantom", "dataset.seed=1", f"dataset.volume_size={list(size)}", "dataset.xray_size=[16,16]"]
    with initialize_config_dir(str(ROOT / "config"), version_base="1.3"):
        node = compose("train_ddpm", [*overrides, *stored_xrays(tmp_path / "xrays.safetensors")]).dataset.source
    source_of_file = instantiate(node)
    assert source_of_file.missing() == [] and source_of_file.describe()["xrays"] == "8 bit, from a file"
    for photons, noise in ((1e4, "Poisson of 10000 photons per mm² in the open field, then rounded to 8 bits"),
                           (None, "rounded to 8 bits")):  # fmt: skip
        settings = replace(source.xray, drr=DrrSettings(photons=photons))
        stated = StoredXrayPhantoms("x", source.population, source.geometry, settings).forward_model()
        assert (stated["photons"], stated["noise"]) == (photons, noise)
    torch.testing.assert_close(source_of_file.build(source.rows.iloc[-1])["xray"].float(), own, rtol=0, atol=1 / 255)
    with pytest.raises(UserError, match="xray_file=x.*pose_noise"):
        StoredXrayPhantoms("x", source.population, source.geometry, source.xray, pose_noise=True)
