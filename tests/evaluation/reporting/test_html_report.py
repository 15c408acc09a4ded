"""The report of a folder: its content, a second report of the same folder, and its limits."""

import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from time import process_time

import numpy as np
import pandas as pd
import pytest
from evaluation_fakes import FakePipeline, chest_data, evaluate, oracle
from forked_command import run_command
from omegaconf import OmegaConf
from PIL import Image

from common.environment import save_config
from common.errors import UserError
from common.files import sha256, write_json
from dataset.imaging.hu_window import Window
from evaluation.intervals.input_shift import LEVEL, InputShift
from evaluation.intervals.prediction_intervals import PredictionIntervals, drawn_with, input_shift_decisions
from evaluation.protocol import comparability as protocol
from evaluation.reporting.html_report import write_report
from evaluation.reporting.sections import case_table, input_shift_part, limits, markdown_blocks
from evaluation.scoring import summary as results
from evaluation.scoring.evaluation_pictures import file_name
from evaluation.scoring.summary import sentence, smallest_p
from evaluation.statistics.patient_bootstrap import METHOD
from evaluation.statistics.significance import sign_flip_p


def scores_of(cases: int, methods=("model", "mean_volume", "nearest", "ridge", "shuffled_xray")) -> pd.DataFrame:
    generator, rows = np.random.default_rng(0), []
    for case in range(cases):
        for place, method in enumerate(methods):
            row = {"id": f"case_{case:03d}", "patient": f"p{case}", "method": method}
            row |= {"psnr": 25 - place + generator.normal(0, 0.3), "ssim": 0.8, "mae_hu": 60 + generator.normal(0, 5)}
            rows.append(row | {"spread_hu_body": 12.0 if method == "model" else np.nan})
    return pd.DataFrame(rows)


def an_evaluation(folder: Path, cases: int = 12, scores: pd.DataFrame | None = None, **data) -> dict:
    """A folder as evaluate leaves it, without its pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    scores = scores_of(cases) if scores is None else scores
    patients = list(scores[scores.method == scores.method.iloc[0]].patient)
    described = protocol.describe(
        window=Window(-1000.0, 1000.0),
        volume_size=(24, 24, 24),
        spacing=(10.0, 10.0, 10.0),
        samples=4,
        split="test",
        patients=patients,
        data={"dataset": "default", "version": "v", "xray_sources": {"film": len(patients)}} | data,
        data_sha256="0" * 64,
        metrics=("psnr", "ssim", "mae_hu"),
    )
    result = {"protocol": described | {"not_measured": {}, "seed": 0}} | results.summarise(scores, draws=100)
    scores.to_csv(folder / "cases.csv", index=False)
    write_json(folder / "metrics.json", result)
    return result


@pytest.mark.slow
def test_a_hundred_cases_are_listed_within_a_minute(tmp_path):
    an_evaluation(tmp_path, 100)
    start = process_time()
    page = write_report(tmp_path).read_text()
    assert process_time() - start < 60
    assert all(f"case_{case:03d}" in page for case in range(100))
    assert not re.search(r"(src|href)=\"(?!data:)", page)  # nothing is loaded from anywhere


def test_best_median_and_worst_follow_the_scores(tmp_path):
    scores = scores_of(9)
    shown = {row["place"]: row for row in case_table(scores, "model")["rows"]}
    model = scores[scores.method == "model"].sort_values("psnr")["id"].tolist()
    assert (shown["worst"]["id"], shown["median"]["id"], shown["best"]["id"]) == (model[0], model[4], model[-1])
    errors = scores.drop(columns="psnr").assign(ssim=np.nan)
    shown = {row["place"]: row["id"] for row in case_table(errors, "model")["rows"]}
    assert shown["best"] == errors[errors.method == "model"].sort_values("mae_hu")["id"].iloc[0]  # low is good here
    assert case_table(scores[["id", "patient", "method"]], "model")["rows"] == []


def test_a_second_report_keeps_runs_and_classification(tmp_path):
    an_evaluation(tmp_path / "run")
    training = tmp_path / "training"
    (training / ".hydra").mkdir(parents=True)
    (training / ".hydra" / "config.yaml").write_text("model: the config of it\n")
    pd.DataFrame({"step": range(9), "train/loss": np.linspace(2, 1, 9)}).to_csv(training / "metrics.csv", index=False)
    classes = tmp_path / "classes"
    classes.mkdir()
    (classes / "table.md").write_text("| classifier | AUC |\n| --- | --- |\n| xray | **0.71** |\n\n- stated before\n")
    Image.new("RGB", (4, 4)).save(classes / "roc.png")
    first = write_report(tmp_path / "run", {"DDPM": training, "VQ-GAN": None}, classes).read_text()
    assert "the config of it" in first and "<td>0.71</td>" in first and "<li>stated before</li>" in first
    assert "ROC: sensitivity" in first and 'alt="loss curve"' in first and "reliability" not in first
    assert write_report(tmp_path / "run").read_text() == first
    (tmp_path / "run" / "report.json").unlink()
    assert "classification</h2>" not in write_report(tmp_path / "run").read_text()
    classes.rename(tmp_path / "run" / "classification")  # found where it lies within
    assert "<td>0.71</td>" in write_report(tmp_path / "run").read_text()


def test_the_page_shows_config_and_record_of_each_part(tmp_path):
    def a_folder(name: str) -> Path:
        (tmp_path / name / ".hydra").mkdir(parents=True)
        (tmp_path / name / ".hydra" / "config.yaml").write_text(f"key: of {name}\n")
        return tmp_path / name

    an_evaluation(tmp_path / "run")
    inner = a_folder("run/train_ddpm/first")
    (inner / "run.json").write_text('{"versions": {"torch": "9.9"}}')
    page = write_report(tmp_path / "run", {"DDPM": tmp_path / "run" / "train_ddpm"}).read_text()
    assert "config of the DDPM training" in page and "key: of run/train_ddpm/first" in page and "9.9" in page
    assert "config of the this" not in page and "config of this evaluation" not in page  # its own was never written
    save_config(OmegaConf.create({"samples": 4}), tmp_path / "run")
    a_folder("run/classification")
    (tmp_path / "run" / "classification" / "table.md").write_text("| a |\n| --- |\n| 1 |\n")
    page = write_report(tmp_path / "run").read_text()
    assert "config of this evaluation" in page and "samples: 4" in page and "key: of run/classification" in page


def test_limits_follow_the_protocol():
    def lines(cases=50, window=(-1000.0, 1000.0), comparisons=4, **changed) -> str:
        data = {"xray_sources": changed.pop("sources", {"film": 1})}
        base = {"dataset": "default", "cases": cases, "patients": cases, "window": window, "data": data}
        return " ".join(limits(base | changed, comparisons))

    assert "diagnosis" in lines() and "one training run" in lines()
    assert "computed from the CTs" not in lines() and "computed from the CTs" in lines(sources={"drr": 3})
    assert "not X-ray evidence" in lines(sources={"film": 2, "drr_contrast": 1})
    assert "phantoms" in lines(dataset="phantom") and "phantoms" not in lines()
    assert "Few cases (5)" in lines(cases=5) and "no difference could have reached" in lines(cases=5)
    assert "Few" not in lines() and "-200 to 500" in lines(window=(-200.0, 500.0))
    assert "registered to the truth" in lines(registration="rigid")
    far = lines(xrays_unlike_training=2)
    assert "2 of the X-rays are more than 1.2 times as far from the mean training X-ray as the farthest" in far
    assert "mean training X-ray" not in lines(xrays_unlike_training=0) + lines(xrays_unlike_training=None)


def test_the_page_names_the_xrays_whose_intervals_the_input_test_withholds(tmp_path):
    """The decision of generation for the same X-ray: `PredictionIntervals.unlike_calibration`."""
    data, checkpoint = chest_data(40, 40, 4), tmp_path / "model.ckpt"
    checkpoint.write_bytes(b"weights")
    data.test.case(2)["xray"] = data.test.case(2)["xray"] ** 0.4
    xrays = [[cases.case(i)["xray"].float() for i in range(len(cases))] for cases in (data.train, data.val, data.test)]
    pipeline = FakePipeline(oracle(data.test), data.protocol())
    drawn, shift = drawn_with(pipeline.describe(), 3), asdict(InputShift.fit(*xrays[:2]))
    of = {"file": checkpoint.name, "sha256": sha256(checkpoint)}
    calibrated = PredictionIntervals(of, drawn, 0.3, 0.9, {}, shift=shift)
    options = {"samples": 3, "nifti": 0, "methods": ("model",), "metrics": ["psnr"], "checkpoint": checkpoint}
    results, pages = {}, {}
    for name, intervals in (("with", calibrated), ("without", None)):
        results[name] = evaluate(data, pipeline, tmp_path / name, report=True, intervals=intervals, **options)
        pages[name] = (tmp_path / name / "report.html").read_text().partition("metrics.json in full")[0]
    found, page = results["with"]["input_shift"], pages["with"]
    expected = {f"case_{i}": calibrated.unlike_calibration(xray) for i, xray in enumerate(xrays[2])}
    withheld = [name for name, (_, why) in expected.items() if why]
    assert found["p"] == {name: p for name, (p, _) in expected.items()} and found["p"]["case_2"] < LEVEL
    assert found["withheld"] == withheld and "case_2" in withheld and len(withheld) < 4
    assert "test of input shift" in page and f"of {len(withheld)} of the 4 X-rays" in page
    assert f"case_2 (p {found['p']['case_2']:.2g})" in page
    assert results["without"]["input_shift"] is None
    assert "input shift" not in pages["without"] and "withh" not in pages["without"]

    def tested(**changed) -> dict | None:
        inputs = {f"case_{i}": xray for i, xray in enumerate(xrays[2])}
        given = replace(calibrated, **changed)
        return input_shift_decisions(pipeline.describe(), 3, of["sha256"], given, inputs, [None] * 4)

    assert tested() == found and tested(shift=None) is None  # the second a file of an earlier version
    other = tested(drawn=drawn | {"steps": 4})  # an interval of no X-ray, but the test holds
    assert other == found | {"reason": "calibrated for steps 4, drawn with steps 3"}
    assert f"({other['reason']})" in input_shift_part(other)
    assert f"Unlike them are {len(withheld)} of the 4 X-rays: case_2" in input_shift_part(other)
    stale = tested(checkpoint=of | {"sha256": "0"})
    assert stale["p"] == {} and stale["withheld"] == []
    assert "no X-ray was tested: the calibration is of another checkpoint" in input_shift_part(stale)


def test_the_input_test_is_described_as_it_was_done():
    none = {"p": {"a": 0.4, "b": 0.2}, "withheld": [], "level": 0.05, "chi2": None, "reason": None}
    assert "of 0 of the 2 X-rays" in input_shift_part(none) and "chi²" not in input_shift_part(none)
    one = none | {"withheld": ["b"], "p": {"a": 0.4, "b": 0.0123}, "chi2": 1}
    assert "chi² of the first prediction (known for 1)" in input_shift_part(one)
    assert "of 1 of the 2 X-rays: b (p 0.012)." in input_shift_part(one)
    assert "(known" not in input_shift_part(one | {"chi2": 2})
    assert "does not prove" in input_shift_part(none) and input_shift_part(None) is None


def test_the_sentence_names_too_few_patients(tmp_path):
    for count in (2, 4, 6):
        reached = sign_flip_p(np.full(count, 3.0), np.arange(count))
        assert reached == pytest.approx(smallest_p(count, 1), rel=0.1)  # all patients agree, and p is no smaller
    assert smallest_p(8, 4) < 0.05 < smallest_p(7, 4)
    four = sentence(an_evaluation(tmp_path / "four", 4))
    assert "no difference can be shown, 4 patients are too few" in four and "beats" not in four and " p " not in four
    assert "beats the ridge regression" in sentence(an_evaluation(tmp_path / "twelve", 12))


def test_a_cell_counts_its_cases_where_some_have_no_value(tmp_path):
    scores = scores_of(12)
    scores.loc[(scores.method == "model") & (scores.index < 20), "ssim"] = np.nan  # the first four
    model = an_evaluation(tmp_path, scores=scores)["methods"]["model"]
    assert (model["ssim"]["cases"], model["ssim"]["patients"], model["psnr"]["cases"]) == (8, 8, 12)
    page = write_report(tmp_path).read_text()
    assert page.count("8 of 12 cases") == 5 and "12 of 12" not in page  # the model, and its four differences


def test_few_patients_have_no_interval_and_others_that_of_the_named_method(tmp_path):
    for cases in (4, 5):
        result = an_evaluation(tmp_path / str(cases), cases)
        page = write_report(tmp_path / str(cases)).read_text().partition("metrics.json in full")[0]
        assert result["methods"]["model"]["psnr"]["low"] is not None  # kept for other programs
        assert (" … " in page) == ("[" in sentence(result)) == (cases == 5)
        assert METHOD in page and "Means of fewer than 5 patients have no interval" in page


def test_animations_are_found_by_the_names_that_evaluation_gives_them(tmp_path):
    an_evaluation(tmp_path, scores=scores_of(3).replace("case_000", "Müller/1 a"))
    (tmp_path / "gif").mkdir()
    for name in ("Müller/1 a", "case_001", "of another run"):
        Image.new("L", (8, 8)).save(tmp_path / "gif" / f"{file_name(name)}.gif")
    page = write_report(tmp_path).read_text()
    assert page.count("data:image/gif") == 2 and 'alt="Müller_1_a"' in page


def test_scored_files_of_another_method_have_a_report(tmp_path):
    scores = scores_of(5, ("model",)).drop(columns="spread_hu_body")
    result = an_evaluation(tmp_path, scores=scores)
    other = result | {"methods": {"gan": result["methods"]["model"]}}
    write_json(tmp_path / "metrics.json", other)
    scores.assign(method="gan").to_csv(tmp_path / "cases.csv", index=False)
    page = write_report(tmp_path).read_text()
    assert "the method gan" in page and "<h2>Model minus" not in page and "No pictures" in page


def test_markdown_is_read_as_it_is_written():
    text = "A **bold** line\nthat goes on.\n\n| a | b |\n|---|:-:|\n| 1 | 2 |\n\n- one\n- two\n"
    found = markdown_blocks(text)
    assert found == [
        {"text": "A bold line that goes on."},
        {"table": {"head": ["a", "b"], "rows": [["1", "2"]]}},
        {"list": ["one", "two"]},
    ]


def test_text_of_a_file_cannot_become_markup(tmp_path):
    scores = scores_of(3).replace("case_000", "<script>alert(1)</script>")
    an_evaluation(tmp_path, scores=scores)
    assert "<script>" not in write_report(tmp_path).read_text()


def test_folders_without_an_evaluation_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        write_report(tmp_path / "nothing")
    an_evaluation(tmp_path)
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(UserError, match="report.json: not JSON"):
        write_report(tmp_path)
    (tmp_path / "report.json").unlink()
    (tmp_path / "cases.csv").unlink()
    with pytest.raises(UserError, match="cases.csv: missing"):
        write_report(tmp_path)


@pytest.mark.slow
def test_the_command(tmp_path):
    an_evaluation(tmp_path)
    done = run_command("evaluation/report.py", f"run={tmp_path}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "report.html") and (tmp_path / "report.html").is_file()
    assert json.loads((tmp_path / "metrics.json").read_text())["protocol"]["cases"] == 12
