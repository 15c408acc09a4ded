"""Differences of two results against an independent computation, and refusals."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from evaluation_fakes import FakeDataModule, FakePipeline, chest_world, evaluate, oracle, protocol
from forked_command import run_command
from scipy import stats

from common.errors import UserError
from evaluation.scoring.comparison import compare, read_result, table


def evaluated(
    folder: Path, noise: float, samples: int = 2, seed: int = 3, window=(-1000.0, 1000.0), cases=None
) -> Path:
    test = chest_world(8, seed)
    data = FakeDataModule(chest_world(4, 1), chest_world(2, 2), test, protocol(window=window))
    pipeline = FakePipeline(oracle(data.test), data.protocol(), noise=noise)
    evaluate(data, pipeline, folder, samples=samples, nifti=0, methods=("model", "model_sample", "ridge"), cases=cases)
    return folder / "metrics.json"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    return {"clean": evaluated(folder / "clean", 20.0), "noisy": evaluated(folder / "noisy", 60.0)}


def changed(result, tmp_path, edit) -> Path:
    """A copy of a result after `edit(summary, table)`."""
    summary, rows = json.loads(result.read_text()), pd.read_csv(result.with_name("cases.csv"), dtype={"id": str})
    rows = edit(summary, rows)
    (tmp_path / "metrics.json").write_text(json.dumps(summary))
    rows.to_csv(tmp_path / "cases.csv", index=False)
    return tmp_path / "metrics.json"


def test_difference_and_interval_agree_with_a_t_interval(results):
    result = compare(read_result("a", results["clean"]), read_result("b", results["noisy"]))
    found = result["differences"]["psnr"]
    one, other = (
        pd.read_csv(results[k].with_name("cases.csv")).query("method == 'model'").psnr for k in ("clean", "noisy")
    )
    gap = one.to_numpy() - other.to_numpy()
    assert found["mean"] == pytest.approx(gap.mean(), abs=1e-5)
    low, high = stats.t.interval(0.95, len(gap) - 1, gap.mean(), stats.sem(gap))
    assert low - 0.02 <= found["low"] < found["mean"] < found["high"] <= high + 0.02
    assert found["p"] == pytest.approx(2 / 2**8, abs=0.004)  # all eight signs alike, of 256 flips
    assert found["p_holm"] >= found["p"] and found["cases"] == 8
    assert set(result["protocol"]) >= {"window", "spacing", "registration", "split", "cases", "data_sha256"}
    text = table(result)
    assert "a better" in text or "no difference shown" in text
    assert "mean of 2 samples" in text


def test_a_result_against_itself_shows_nothing(results):
    result = compare(read_result("a", results["clean"].parent), read_result("b", results["clean"]))
    for values in result["differences"].values():
        assert values["mean"] == 0.0 and values["low"] == 0.0 == values["high"]
    assert "better" not in table(result)


def test_a_metric_without_a_best_value_differs(results):
    result = compare(read_result("a", results["clean"]), read_result("b", results["noisy"]))
    shown = {"a": 0.8, "b": 0.9, "mean": -0.1, "low": -0.12, "high": -0.08, "p": 0.01, "p_holm": 0.01}
    lines = table(result | {"differences": {"covered_90": shown}}).splitlines()
    assert lines[-1].endswith("| a and b differ |")


def test_the_direction_of_a_metric_decides_which_is_better(results):
    result = compare(read_result("a", results["noisy"]), read_result("b", results["clean"]))
    for name in ("psnr", "mae_hu"):
        result["differences"][name]["p_holm"] = 0.001
    lines = {line.split(" | ")[0]: line for line in table(result).splitlines()}
    assert lines["| PSNR, dB"].endswith("b better |") and lines["| MAE, HU"].endswith("b better |")


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("window", [-200.0, 500.0], "window: [-1000.0, 1000.0] against [-200.0, 500.0]"),
        ("registration", "rigid", "registration: none against rigid"),
        ("spacing", [1.0, 1.0, 1.0], "spacing: "),
        ("split", "val", "split: test against val"),
        ("data_sha256", "0" * 64, "data_sha256: "),
        ("data_version", 2, "data_version: 1 against 2"),
    ],
)
def test_two_protocols_are_refused_with_both_values(results, tmp_path, key, value, shown):
    def edit(summary, rows):
        summary["protocol"][key] = value
        return rows

    other = changed(results["clean"], tmp_path, edit)
    with pytest.raises(UserError, match="two protocols") as refusal:
        compare(read_result("a", results["clean"]), read_result("b", other))
    assert shown in str(refusal.value)


def test_one_sample_is_not_compared_with_a_mean_but_with_a_sample_and_a_regression(results):
    one, other = read_result("a", results["clean"]), read_result("b", results["noisy"])
    with pytest.raises(UserError, match="estimator: one sample against mean of 2 samples"):
        compare(one, other, "model_sample", "model")
    assert compare(one, other, "model_sample", "model_sample")["a"]["estimator"] == "one sample"
    assert compare(one, other, "model", "ridge")["b"]["estimator"] == "point"


def test_another_definition_of_a_metric_is_another_protocol(results, tmp_path):
    def edit(summary, rows):
        summary["protocol"]["definitions"]["ssim"] = "2D"
        return rows

    with pytest.raises(UserError, match="definition of ssim.*“2D”"):
        compare(read_result("a", results["clean"]), read_result("b", changed(results["clean"], tmp_path, edit)))


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        (lambda s, t: t[t.id != "case_3"], "cases of .* are missing .case_3"),
        (
            lambda s, t: pd.concat([t, t[(t.id == "case_1") & (t.method == "model")]]),
            "model has two rows with id case_1",
        ),
        (lambda s, t: t.assign(patient=t.patient.replace("patient_2", "other")), "case_2: patient patient_2"),
        (lambda s, t: t[t.method != "model"], "method=model: not in"),
        (lambda s, t: t.assign(**{c: np.nan for c in t.columns[3:]}), "no metric has values in both"),
        (lambda s, t: s.pop("protocol") and t, "no protocol and methods"),
        (lambda s, t: t.drop(columns="patient"), "no column patient"),
    ],
)
def test_malformed_files_are_refused(results, tmp_path, edit, line):
    bad = changed(results["clean"], tmp_path, edit)
    with pytest.raises(UserError, match=line):
        compare(read_result("a", results["clean"]), read_result("b", bad))


def test_missing_files_name_the_remedy(results, tmp_path):
    with pytest.raises(UserError, match="a: missing"):
        read_result("a", None)
    with pytest.raises(UserError, match="no such file"):
        read_result("a", tmp_path / "none.json")
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        read_result("a", tmp_path)
    (tmp_path / "metrics.json").write_text(results["clean"].read_text())
    with pytest.raises(UserError, match="cases.csv: missing"):
        read_result("a", tmp_path)
    with pytest.raises(UserError, match="draws=5"):
        compare(read_result("a", results["clean"]), read_result("b", results["noisy"]), draws=5)


def test_one_case_has_a_difference_and_no_interval(tmp_path):
    paths = [evaluated(tmp_path / name, noise, cases=1) for name, noise in (("one", 20.0), ("two", 60.0))]
    result = compare(*(read_result(k, path) for k, path in zip("ab", paths, strict=True)))
    assert result["differences"]["psnr"]["low"] is None and result["differences"]["psnr"]["mean"] > 5
    assert "one patient" in table(result) and "better" not in table(result)


@pytest.mark.slow
def test_the_command_prints_and_writes(results, tmp_path):
    run = partial(run_command, "evaluation/compare.py")

    done = run(f"a={results['clean']}", f"b={results['noisy']}", f"output={tmp_path}/difference.json", "draws=200")
    assert done.returncode == 0, done.stderr
    assert "PSNR, dB" in done.stdout and json.loads((tmp_path / "difference.json").read_text())["differences"]["ssim"]
    refused = run(f"a={results['clean']}")
    assert refused.returncode == 1 and refused.stderr.startswith("error: b: missing") and "Trace" not in refused.stderr
