"""The comparison of samplers in the fidelity benchmark: its verdicts, pictures, stored results and refusals."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from benchmarks.fidelity import hypotheses, samplers, solvers, table
from benchmarks.fidelity.sampler_plots import guidance_picture, quality_picture


def way(evaluations: int, psnr: float, spread: float, **extra) -> dict:
    rng = np.random.default_rng(evaluations)
    cases = {}
    for i in range(12):
        noise = 1e-3 * rng.normal(size=6)
        values = [psnr, psnr + 1, psnr + 1.2, spread, 20.0, 5.0, 4.0]
        names = (*solvers.ERRORS, *solvers.RATIOS, *solvers.DISTANCES)
        cases[f"p{i}"] = dict(zip(names, (np.array(values) + [*noise, 0]).tolist(), strict=True))
        cases[f"p{i}"]["amplitude"] = [100.0 * spread / 90.0, 10.0]
    described = {"sampler": "x", "step_spacing": "trailing", "steps": evaluations, "evaluations": evaluations}
    return {**described, "guidance_scale": 1.0, "seconds": 1.0, "samples": 8, "cases": cases, **extra}


HOW = {"checkpoint": {"file": "last.ckpt", "sha256": "0" * 64}, "split": "test", "cases": 12, "samples": 8}


def test_samplers_are_compared_with_1000_steps(tmp_path):
    found = {"default": way(12, 23.05, 91.0), "preview": way(4, 22.7, 60.0), "sde": way(20, 23.0, 80.0)}
    result = samplers.report(found | {samplers.REFERENCE: way(1000, 23.0, 90.0)}, False, HOW)
    assert result["protocol"] == HOW
    against = result["ways"]["default"]["against"]
    assert against["psnr_one"]["mean"] == pytest.approx(0.05, abs=0.01)
    assert against["spread"]["mean"] == pytest.approx(91 / 90, abs=1e-3)
    assert against["amplitude"]["worst"] == pytest.approx(91 / 90, abs=1e-3)
    (tmp_path / "samplers_64.json").write_text(json.dumps(result))
    entries = hypotheses.sampler_hypotheses(tmp_path / "samplers_64.json")
    verdicts = {entry["words"]: entry["verdict"] for entry in entries}
    assert [v for w, v in verdicts.items() if w.startswith("sampler default: spread")] == ["holds for this checkpoint"]
    assert [v for w, v in verdicts.items() if w.startswith("sampler preview")] == ["not reached"]
    worst = {w.partition(":")[0]: v for w, v in verdicts.items() if "worst frequency" in w}
    assert worst == {"sampler default": "reached, no interval", "sampler sde": "not reached"}
    assert all("on 12 test cases" in words for words in verdicts)
    assert samplers.REFERENCE in samplers.markdown(result)
    assert len(quality_picture(result).axes) == 4


def verdicts(result: dict, home) -> set[str]:
    (home / "samplers_64.json").write_text(json.dumps(result))
    entries = hypotheses.sampler_hypotheses(home / "samplers_64.json")
    return {entry["verdict"] for entry in entries if entry["words"].startswith("sampler default: spread")}


def test_samplers_of_one_training_are_never_called_shown(tmp_path):
    """Also with intervals far inside the limits; bootstraps of few cases of an earlier version support no verdict."""
    found = {"default": way(12, 23.0, 90.0), samplers.REFERENCE: way(1000, 23.0, 90.0)}
    result = samplers.report(found, False, HOW)
    old = {key: value for key, value in result.items() if key != "intervals"}
    assert verdicts(result, tmp_path) == {"holds for this checkpoint"}
    assert verdicts(old, tmp_path) == {"reached, bootstrap of few cases"}
    assert verdicts(old | {"protocol": HOW | {"cases": 20}}, tmp_path) == {"holds for this checkpoint"}
    for file in table.HERE.glob("samplers_*.json"):
        assert not any(entry["verdict"] == "shown" for entry in hypotheses.sampler_hypotheses(file))


def test_few_cases_have_t_intervals():
    way_of_12, reference = way(12, 23.05, 91.0), way(1000, 23.0, 90.0)
    ours, theirs = ([facts["psnr_one"] for facts in made["cases"].values()] for made in (way_of_12, reference))
    expected = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    found = solvers.against(way_of_12, reference)["psnr_one"]
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high), abs=1e-5)


def test_the_guidance_sweep_has_a_table_and_a_picture():
    found = {f"guidance {g:g}": way(12, 23 - abs(g - 1), 90.0, guidance_scale=g) for g in (0.5, 1.0, 2.0)}
    result = samplers.report(found, True, HOW)
    assert result["reference"] == "guidance 1" and len(guidance_picture(result).axes) == 4


def test_samplers_draw_independent_samples_and_the_default_is_that_of_the_config():
    found = samplers.ways(False)
    assert not any(setting["antithetic"] for setting in found.values())
    assert found["default"]["steps"] <= 20 and found["preview"]["steps"] <= 4
    assert found[samplers.REFERENCE] == {"scheduler": "DDPMScheduler", "steps": 1000, "antithetic": False}
    assert {setting["guidance_scale"] for setting in samplers.ways(True).values()} == set(samplers.GUIDANCE)


def test_a_run_of_few_samplers_reports_all_stored_results(tmp_path):
    settings, measured = {"a, 4": {"steps": 4}, "b": {"steps": 8}, "c": {"steps": 12}}, []

    def gather(wanted, split="val", folder=tmp_path / "kept", settings=settings):
        def measure(setting):
            measured.append(setting["steps"])
            return {"steps": setting["steps"]}

        published = tmp_path / "samplers_64.json"
        found = samplers.gather(folder, {"split": split}, settings, wanted, measure, published)
        published.write_text(json.dumps({"ways": found}))
        return list(found)

    assert gather(["b", "a, 4"]) == ["a, 4", "b"] and measured == [8, 4]
    assert gather(["c"]) == ["a, 4", "b", "c"] and measured == [8, 4, 12]
    assert gather(["a, 4"], settings=settings | {"a, 4": {"steps": 5}}) == ["a, 4", "b", "c"] and measured[3:] == [5]
    for other in ({"split": "test"}, {"folder": tmp_path / "elsewhere"}):
        with pytest.raises(SystemExit, match="samplers_64.json: 2 of its ways.*--output"):
            gather(["b"], **other)
    assert len(measured) == 4  # the error comes before any measurement
    assert gather(list(settings), split="test") == list(settings) and measured[4:] == [4, 8, 12]


def test_an_unknown_sampler_is_refused_with_the_choices(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["samplers.py", "--checkpoint", "none.ckpt", "--ways", "sde", "ddmp"])
    with pytest.raises(SystemExit):
        samplers.main()
    assert "--ways 'ddmp': choose from default; preview; sde" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "pipeline", "said"),
    [
        (["--guidance"], {"guided": False}, "--guidance: last.ckpt was trained without condition drop"),
        (
            [],
            {"describe": lambda: {"prediction": "flow"}},
            "last.ckpt: a model of flow matching",
        ),
    ],
)
def test_a_model_that_cannot_be_compared_is_refused(monkeypatch, tmp_path, words, pipeline, said):
    monkeypatch.setattr("ddpm.checkpoint.load.load_pipeline", lambda *_, **__: SimpleNamespace(**pipeline))
    arguments = ["--checkpoint", "last.ckpt", *words, "--home", str(tmp_path), "--output", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["samplers.py", *arguments])
    with pytest.raises(SystemExit, match=said):
        samplers.main()


def test_the_published_samplers_have_their_protocol():
    held = json.loads((table.HERE / "samplers_64.json").read_text())
    assert held["protocol"]["split"] == "val" and held["protocol"]["samples"] == held["ways"]["default"]["samples"]
    assert {way["against"]["cases"] for way in held["ways"].values()} == {held["protocol"]["cases"]}
    assert len(held["protocol"]["checkpoint"]["sha256"]) == 64
