"""The whole evaluation with a fake generator: the files that it writes, and numbers against closed forms."""

import hashlib
import json
from html.parser import HTMLParser

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from evaluation_fakes import (
    FakeCases,
    FakeDataModule,
    FakePipeline,
    chest_data,
    chest_world,
    evaluate,
    oracle,
    protocol,
)
from PIL import Image

from common.errors import UserError
from dataset.imaging.forward_model import ForwardModel
from dataset.imaging.hu_window import Window
from ddpm.diffusion.training_spread import TrainingSpread
from evaluation.metrics.reprojection import FORWARD_MODEL
from evaluation.protocol.leakage import seen_patients
from evaluation.reporting.html_report import write_report
from evaluation.reporting.plots import loss_curves
from evaluation.scoring.evaluator import METHODS
from evaluation.scoring.score_cases import Shared, metric_names, score_case
from evaluation.scoring.summary import sentence

REPROJECTED = {"methods": ("model",), "metrics": ("psnr", "reprojection")}


def run(data, output, noise=20.0, samples=1, nifti=0, **settings) -> dict:
    """Evaluates a generator that answers with the truth and some noise."""
    pipeline = FakePipeline(oracle(data.test), data.protocol(), noise)
    volumes = ((data.train.case(i)["ct"], None) for i in range(len(data.train)))
    pipeline.training_spread = TrainingSpread.fit(volumes, pipeline.window, {"phantoms": len(data.train)})
    return evaluate(data, pipeline, output, samples=samples, nifti=nifti, **settings)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    output = tmp_path_factory.mktemp("evaluation") / "run"
    data = chest_data(20, 6, 6)
    checkpoint = output.parent / "last.ckpt"
    checkpoint.write_bytes(b"weights")
    return output, run(data, output, noise=40.0, samples=4, nifti=2, checkpoint=checkpoint, report=True), data


def test_metrics_json_holds_methods_and_protocol(evaluated):
    output, result, _ = evaluated
    written = json.loads((output / "metrics.json").read_text())
    assert written == json.loads(json.dumps(result))
    assert set(written["methods"]) == set(METHODS)
    for method, metrics in written["methods"].items():
        assert set(metrics) == set(metric_names())
        for name, estimate in metrics.items():
            one_volume = method not in ("model", "shuffled_xray") and name.startswith(("spread", "covered"))
            if one_volume or name == "reprojection_noise":
                assert estimate is None  # the X-rays have no noise
                continue
            assert estimate["low"] <= estimate["mean"] <= estimate["high"]
    needed = "estimator samples window data_range_hu spacing split cases data_version checkpoint sampler steps seed"
    assert set(needed.split()) <= set(written["protocol"])
    assert written["protocol"]["estimator"] == "mean of 4 samples"
    assert written["protocol"]["checkpoint"]["sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert written["protocol"]["bootstrap"]["draws"] == 2000


def test_the_mean_scores_higher_than_a_sample_and_a_shuffled_xray_lower(evaluated):
    _, result, _ = evaluated
    psnr = {name: metrics["psnr"]["mean"] for name, metrics in result["methods"].items()}
    assert psnr["model"] == pytest.approx(20 * np.log10(2000 / 20), abs=0.8)  # noise 40 / sqrt(4); air is clipped
    assert psnr["model"] - psnr["model_sample"] == pytest.approx(20 * np.log10(2), abs=1.0)
    assert psnr["model"] > max(psnr["ridge"], psnr["nearest"], psnr["mean_volume"]) + 3.0
    assert psnr["shuffled_xray"] < psnr["model"] - 5.0
    drop = result["differences"]["shuffled_xray"]["psnr"]
    assert drop["mean"] == pytest.approx(psnr["model"] - psnr["shuffled_xray"], abs=1e-4) and drop["low"] > 0


def test_shuffled_xray_scores_the_volume_of_another_patient(evaluated):
    output, _, data = evaluated
    rows = pd.read_csv(output / "cases.csv").query("method == 'shuffled_xray'")
    truths = torch.stack([data.test.case(i)["ct"].float() for i in range(6)])
    for i, mae in enumerate(rows.mae_hu):
        others = [(truths[j] - truths[i]).abs().mean().item() for j in range(6) if j != i]
        assert min(abs(mae - other) for other in others) < 12.0


def test_cases_csv_has_every_case_and_method(evaluated):
    output, result, _ = evaluated
    table = pd.read_csv(output / "cases.csv")
    assert len(table) == 6 * (len(METHODS) + 1)
    means = table[table.method == "model"].ssim.mean()
    assert means == pytest.approx(result["methods"]["model"]["ssim"]["mean"], abs=1e-5)
    assert table.loc[table.method == "model", "spread_hu_body"].between(35, 45).all()


def test_scores_of_the_distribution_stand_beside_psnr(evaluated):
    output, result, _ = evaluated
    found = result["methods"]["model"]
    # the truth is the mean of the samples, so it is nearer to it than a further sample is
    assert found["spread_over_error"]["mean"] > 3.0 and found["spread_over_error"]["low"] > 2.0
    assert found["energy_score"]["mean"] < result["methods"]["model_sample"]["energy_score"]["mean"]
    ranks = result["rank_histogram"]
    assert [share["mean"] for share in ranks["shares"]] == pytest.approx(
        [1 / 16, 1 / 4, 3 / 8, 1 / 4, 1 / 16], abs=0.01
    )
    assert ranks["flat"] == 0.2 and ranks["independent_samples"] == 4 and ranks["cases"] == 6
    assert ranks["deviation"]["mean"] == pytest.approx(0.275, abs=0.015)
    assert "spread_over_error" not in result["differences"]["shuffled_xray"]
    assert "Rank of the truth among the samples" in (output / "report.html").read_text()


def test_evidence_maps_are_drawn_and_their_reliability_is_measured(evaluated):
    """The samples are the truth and 40 HU of noise, so their mean has no error beyond that of 4 samples."""
    output, result, _ = evaluated
    found = result["evidence_reliability"]
    assert found["training_cases"] == "20 phantoms" and found["cases"] == 6 and len(found["bins"]) == 10
    assert sum(row["voxels"] for row in found["bins"]) == pytest.approx(1.0, abs=1e-5)
    top = found["bins"][-1]
    assert top["voxels"] > 0.1 and top["error"]["mean"] < 0.01 and 0.0 < top["expected"] < 0.1
    sheet = Image.open(output / "evidence.png").convert("RGB")
    rgb = np.asarray(sheet).astype(int)
    assert (rgb[..., 2] - rgb[..., 0] > 60).mean() > 0.03  # blue: determined
    page = (output / "report.html").read_text()
    assert "<b>invented</b>" in page and "Are the evidence maps right?" in page and "20 phantoms" in page
    assert "a legend from 0 % (as variable as the training) to 100 % (samples agree)" in page


def test_files_for_the_first_cases(evaluated):
    output, _, data = evaluated
    assert sorted(p.name for p in (output / "nifti").iterdir()) == [
        f"case_{i}_{kind}.nii.gz" for i in range(2) for kind in ("generated", "true")
    ]
    generated = nib.load(output / "nifti" / "case_0_generated.nii.gz")
    assert b"SYNTHETIC" in generated.header["descrip"].tobytes()
    assert b"SYNTHETIC" not in nib.load(output / "nifti" / "case_0_true.nii.gz").header["descrip"].tobytes()
    spacing = data.test.case(0)["spacing"].tolist()
    assert generated.header.get_zooms() == pytest.approx(tuple(reversed(spacing)), abs=1e-3)
    assert {p.name for p in (output / "gif").iterdir()} == {"case_0.gif", "case_1.gif"}
    assert (output / "sheet.png").stat().st_size > 20_000
    assert not list(output.glob(".volumes_*"))


def test_the_report_loads_nothing_from_outside_and_is_marked_synthetic(evaluated):
    output, result, _ = evaluated

    class Sources(HTMLParser):
        found: list = []

        def handle_starttag(self, tag, attributes):
            self.found += [value for name, value in attributes if name in ("src", "href") and tag != "a"]

    page = (output / "report.html").read_text()
    Sources().feed(page)
    assert Sources.found and all(source.startswith("data:image/") for source in Sources.found)
    assert "SYNTHETIC - not for diagnosis" in page and "phantoms" in page and "cannot determine" in page
    assert f"{result['methods']['model']['psnr']['mean']:.2f}" in page
    assert "://" not in page.split("<details>")[0]


def test_the_sentence_follows_interval_and_p_value(evaluated):
    _, result, _ = evaluated
    psnr = {"mean": -1.0, "low": -1.5, "high": -0.5, "p_holm": 0.001}
    worse = result | {"differences": {"ridge": {"psnr": psnr}}}
    assert "falls behind the ridge regression (-1.00 [-1.50, -0.50] dB)" in sentence(worse)
    psnr |= {"p_holm": 0.2}
    assert "no difference is shown (-1.00 [-1.50, -0.50] dB, adjusted p 0.2)" in sentence(worse)
    psnr |= {"mean": 1.0, "low": 0.5, "high": 1.5, "p_holm": 0.01}
    assert "beats the ridge regression by 1.00 [0.50, 1.50] dB" in sentence(worse)
    unused = result | {"differences": {"shuffled_xray": {"psnr": psnr | {"low": -0.1, "p_holm": 0.6}}}}
    assert "shows no difference" in sentence(unused)


def test_the_report_shows_loss_curves(evaluated, tmp_path):
    output, _, _ = evaluated
    before = (output / "report.html").read_text().count("<img")
    table = pd.DataFrame({"epoch": 0, "step": range(50), "train/loss": np.linspace(2, 1, 50), "train/lr": 1e-3})
    table["val/l1"] = [0.5 if step % 10 == 0 else np.nan for step in range(50)]
    table.to_csv(tmp_path / "metrics.csv", index=False)
    (axis,) = loss_curves(tmp_path, "DDPM").axes
    assert [line.get_label() for line in axis.lines] == ["train/loss", "val/l1"]
    write_report(output, {"DDPM": tmp_path, "VQ-GAN": tmp_path / "missing"})
    assert (output / "report.html").read_text().count("<img") == before + 1


def test_a_perfect_model_stays_finite(tmp_path):
    result = run(chest_data(4, 2, 3), tmp_path, noise=0.0, methods=("model",))
    found = {name: estimate["mean"] for name, estimate in result["methods"]["model"].items() if estimate}
    assert found["psnr"] == 100.0 and found["lung_dice"] == pytest.approx(1.0)
    assert found["ssim"] == pytest.approx(1.0, abs=1e-4) and result["protocol"]["estimator"] == "one sample"
    truth = result["reference"]["truth"]["reprojection"]["mean"]
    assert found["reprojection"] == pytest.approx(truth, abs=1e-6)


def test_one_case_has_no_shuffle_and_no_interval(tmp_path):
    result = run(chest_data(2, 2, 3), tmp_path, samples=2, cases=1, nifti=1, metrics=("psnr",), report=True)
    assert "shuffled_xray" not in result["methods"] and result["protocol"]["cases"] == 1
    assert result["methods"]["model"]["psnr"]["low"] is None
    assert "no difference" in sentence(result)


def test_a_narrow_window_gives_no_number_for_lungs_and_reprojection(tmp_path):
    result = run(chest_data(4, 2, 3, protocol(window=(-200.0, 500.0))), tmp_path, methods=("model",), report=True)
    for name in ("lung_dice", "reprojection"):
        assert result["methods"]["model"][name] is None
        assert result["protocol"]["not_measured"][name].startswith("outside window")
    assert result["methods"]["model"]["psnr"]["mean"] > 20
    assert "<td>outside window</td>" in (tmp_path / "report.html").read_text()


def test_unknown_poses_give_no_reprojection(tmp_path):
    cases = chest_world(3, 3)
    unposed = FakeCases([cases.case(i) | {"pose": torch.full((1, 9), float("nan"))} for i in range(3)])
    result = run(FakeDataModule(chest_world(4, 1), chest_world(2, 2), unposed), tmp_path, **REPROJECTED)
    assert result["methods"]["model"]["reprojection"] is None
    assert "unknown" in result["protocol"]["not_measured"]["reprojection"]


@pytest.mark.parametrize(
    ("model", "reason"),
    [(None, "do not state how their X-rays came about"), ({"iodine": "not drawn"}, "without contrast medium")],
)
def test_xrays_that_no_volume_can_be_compared_with_give_no_reprojection(tmp_path, model, reason):
    data = chest_data(4, 2, 2)
    data.protocol()["forward_model"] = model
    result = run(data, tmp_path, **REPROJECTED)
    assert reason in result["protocol"]["not_measured"]["reprojection"]


def test_a_mirrored_volume_scores_worse():
    case = chest_world(1, seed=5).case(0)
    ct = case["ct"].float()
    tools = {FORWARD_MODEL: ForwardModel()}
    rows = score_case(case, {"model": ct, "mirrored": ct.flip(2)}, Window(-1000.0, 1000.0), tools=tools)
    assert rows[1]["psnr"] < rows[0]["psnr"] - 20 and rows[1]["lung_dice"] < 0.99
    assert rows[1]["reprojection"] > rows[0]["reprojection"]
    with pytest.raises(ValueError, match="voxels"):
        score_case(case, {"model": ct[:-1]}, Window(-1000.0, 1000.0))
    with pytest.raises(ValueError, match="NaN"):
        score_case(case, {"model": ct * float("nan")}, Window(-1000.0, 1000.0))


def test_the_cache_distinguishes_volumes_by_content_and_drops_the_oldest():
    calls = []

    def compute(volume, factor):
        calls.append(factor)
        return volume * factor

    shared, volume = Shared(limit=3 * 8 * 4), torch.ones(2, 2, 2)
    assert torch.equal(shared.get(compute, volume, 2), shared.get(compute, volume.clone(), 2))
    assert calls == [2]
    shared.get(compute, volume + 1, 2), shared.get(compute, volume, 3)
    assert calls == [2, 2, 3]
    shared.get(compute, volume + 2, 2)  # the fourth result: the first has to go
    shared.get(compute, volume, 2)
    assert calls == [2, 2, 3, 2, 2]


def test_evaluation_on_training_patients_needs_allow_seen_patients(tmp_path, caplog):
    data = chest_data(4, 2, 2)
    rows = data.test.rows.assign(split="train")
    pipeline = FakePipeline(oracle(data.test), {**data.protocol(), "seen": seen_patients(rows, {})})
    with pytest.raises(UserError, match=r"checkpoint=.* was trained on 2 of the 2 patients.*allow_seen_patients=true"):
        evaluate(data, pipeline, tmp_path / "refused", samples=1, nifti=0)
    assert not (tmp_path / "refused").exists()
    asked = {"samples": 1, "nifti": 0, "methods": ("model",), "metrics": ("psnr",)}
    result = evaluate(data, pipeline, tmp_path / "allowed", allow_seen_patients=True, **asked)
    assert result["protocol"]["seen_patients"]["train"] == 2 and "no evidence" in caplog.text


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"split": "validation"}, "split=validation"),
        ({"cases": 0}, "cases=0"),
        ({"methods": ("model", "magic")}, "methods="),
        ({"samples": 0}, "samples=0"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_settings_out_of_range_are_one_line(tmp_path, settings, line):
    with pytest.raises(UserError, match=line):
        run(chest_data(2, 1, 2), tmp_path, **settings)


def test_validation_cases_are_not_reported_as_test_cases(tmp_path):
    data = chest_data(2, 2, 2)
    data.test = data.val  # as a split without a case is filled for training
    with pytest.raises(UserError, match="split=test: the data set has no test case of its own; set dataset.test_sh"):
        run(data, tmp_path)
    assert run(data, tmp_path, split="val", methods=("model",), metrics=("psnr",))["protocol"]["cases"] == 2


@pytest.mark.parametrize(("known", "kind"), [(True, "drr"), (False, "film"), (False, "volume")])
def test_the_generator_is_not_conditioned_on_the_size_of_a_radiographs_patient(tmp_path, known, kind):
    test, extents = chest_world(2, 3), []
    for case in test._cases:
        case["spacing"] = case["spacing"] * 1.25
        if not known:
            case["pose"] = torch.full_like(case["pose"], float("nan"))
    data = FakeDataModule(chest_world(3, 1), chest_world(2, 2), test)

    class Pipeline(FakePipeline):
        def __call__(self, *arguments, extent, **options):
            extents.append(extent)
            return super().__call__(*arguments, extent=extent, **options)

    pipeline = Pipeline(oracle(test), data.protocol() | ({"input": "volume"} if kind == "volume" else {}))
    evaluate(data, pipeline, tmp_path, samples=1, nifti=0, methods=("model",), metrics=["psnr"])
    own = torch.tensor(pipeline.extent) * 1.25
    wanted = torch.tensor(pipeline.extent) if kind == "film" else own
    torch.testing.assert_close(torch.cat(extents), wanted.expand(2, 3), rtol=1e-5, atol=1e-3)


def test_rigid_registration_scores_a_second_time_under_its_own_protocol(tmp_path):
    test = chest_world(2, 3)
    data = FakeDataModule(chest_world(3, 1), chest_world(2, 2), test)

    def displaced(xray):
        return oracle(test)(xray).roll(1, 2)  # the right patient, a voxel too far to the left

    settings = {"samples": 1, "nifti": 0, "methods": ("model",), "metrics": ["psnr"], "registration": "rigid"}
    result = evaluate(data, FakePipeline(displaced, data.protocol()), tmp_path, **settings)
    moved = json.loads((tmp_path / "registered_rigid" / "metrics.json").read_text())
    assert result["protocol"]["registration"] == "none" and moved["protocol"]["registration"] == "rigid"
    assert moved["methods"]["model"]["psnr"]["mean"] > result["methods"]["model"]["psnr"]["mean"] + 3.0
    assert (tmp_path / "registered_rigid" / "cases.csv").is_file()
    with pytest.raises(UserError, match="registration=affine: choose none or rigid"):
        evaluate(data, FakePipeline(displaced, data.protocol()), tmp_path, **settings | {"registration": "affine"})


def test_the_crps_needs_samples_and_rewards_their_spread(tmp_path):
    data = chest_data(8, 2, 3)
    wanted = {"methods": ("model", "model_sample", "shuffled_xray"), "metrics": ("crps", "mae_hu", "psnr")}
    found = run(data, tmp_path, noise=60.0, samples=4, registration="rigid", **wanted)["methods"]
    scores = {name: {metric: value["mean"] for metric, value in of.items()} for name, of in found.items()}
    assert scores["model_sample"]["crps"] == pytest.approx(scores["model_sample"]["mae_hu"])
    # samples that scatter around the truth by σ: E|x - y| - E|x - x'| / 2 is (1 - 1/√2) of the MAE of one
    assert scores["model"]["crps"] == pytest.approx(0.293 * scores["model_sample"]["mae_hu"], rel=0.03)
    assert scores["model"]["crps"] < scores["shuffled_xray"]["crps"]
    assert "crps" not in pd.read_csv(tmp_path / "registered_rigid" / "cases.csv").columns
