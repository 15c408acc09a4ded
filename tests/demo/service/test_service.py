"""The service: the same volume as the command line, parallel callers, errors of single requests."""

import itertools
import json
import shlex
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from unittest.mock import Mock

import nibabel as nib
import numpy as np
import pytest
import torch
from consistent_parts import planted
from demo_parts import SAMPLERS, last, save_film, small_pipeline, small_service
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image
from radiograph_files import save_radiograph

from common.cli import CONFIG
from common.errors import UserError
from common.files import ROOT, sha256
from dataset.io.ct import read_volume
from dataset.io.nifti import write_nifti
from ddpm.checkpoint.load import load_pipeline
from ddpm.checkpoint.write import export_pipeline
from ddpm.diffusion.training_spread import ESTIMATE
from demo.page.api import plain
from demo.service.messages import ON_REQUEST, Cancelled, GenerationRequest, Progress, Result
from demo.service.results import page_bars
from evaluation.generation.open_pipeline import SHIPPED, set_sampler
from evaluation.generation.sample import Sampling
from evaluation.generation.write_volumes import generate
from evaluation.intervals.input_shift import InputShift
from evaluation.intervals.prediction_intervals import SAMPLED_WITH, PredictionIntervals
from xray2ct import XrayToCTPipeline


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    checkpoint = export_pipeline(small_pipeline(), folder / "small.safetensors", torch.float32)
    made = small_service(folder / "run", load_pipeline(checkpoint), checkpoint=checkpoint)
    made.file = checkpoint
    yield made
    made.close()


@pytest.fixture
def film(tmp_path):
    return save_film(tmp_path / "Mueller_Hans_1950.png")


def volume(result: Result) -> np.ndarray:
    return nib.load(result.files["volume.nii.gz"]).get_fdata()


def test_progress_by_step_then_a_result_with_its_files(service, film):
    *news, result = service.generate(film, GenerationRequest(samples=2, seed=3))
    assert all(isinstance(item, Progress) for item in news)
    steps = [item.step for item in news]
    assert steps == sorted(steps) and set(steps) >= {0, 4} and {item.steps for item in news} == {4}
    shown = [item.slices for item in news if item.slices]
    assert shown and Image.open(shown[-1]).width > 3 * 100
    assert news[-1].seconds_left is not None
    assert set(result.urls) == {
        "volume.nii.gz", "spread.nii.gz", "dicom.zip", "animation.gif", "settings.json", "xray.png",
        "reprojection.png", "difference.png", "lungs.png", "given.png", "given_lungs.png",
        "sample_1.nii.gz", "sample_2.nii.gz",
    }  # fmt: skip
    assert not set(ON_REQUEST) & {path.name for path in result.files["volume.nii.gz"].parent.iterdir()}
    assert result.nominal and result.metrics is None
    assert result.lungs.startswith("No lungs found in the volume")  # untrained
    assert Image.open(result.files["lungs.png"]).size == (512, 512)
    found = plain(result)
    assert found["evidence"] == "No evidence map: 2 of the 4 samples that a map needs."
    assert found["spread_name"] == "spread" and found["mark"] == "synthetic, not for diagnosis"
    assert result.window == (-1000.0, 1000.0)
    assert 0.0 < result.reprojection < 1.0
    header = nib.load(result.files["volume.nii.gz"]).header
    assert b"SYNTHETIC" in header["descrip"].tobytes() and b"nominal" in header["descrip"].tobytes()
    bars = json.loads(result.files["settings.json"].read_text())["error_bars"]
    assert bars["name"] == "spread" and bars["reason"].startswith("the page shows spreads only")
    assert not list(result.files["volume.nii.gz"].parent.glob("upload*"))  # the patient's file is gone already


def test_the_page_says_whether_the_xray_is_like_the_calibrations():
    interval = {"name": "interval", "level": 0.9, "input_shift_p": 0.5, "words": "…"}
    unlike = {"name": "spread", "reason": "this X-ray is unlike the calibration's (p 0.01)", "input_shift_p": 0.01}
    other = {"name": "spread", "reason": "calibrated for steps 3"}
    for bars, reason, words in (
        (interval, "the page shows spreads only", "This X-ray is like those of the calibration (p 0.5)"),
        (unlike, "this X-ray is unlike", "Spread only: this X-ray is unlike the calibration's"),
        (other, "the page shows spreads only", ""),
    ):
        shown, said = page_bars(bars)
        assert shown["name"] == "spread" and shown["reason"].startswith(reason)
        assert said.startswith(words) and bool(said) == bool(words)
        assert shown.get("input_shift_p") == bars.get("input_shift_p")
    assert page_bars({"name": "none", "reason": "one sample shows no spread"})[0]["reason"].startswith("one sample")


def test_a_calibration_beside_the_checkpoint_reaches_the_page(service, film, monkeypatch):
    generator = service._generator
    described = load_pipeline(service.file).set_sampler(**generator.sampler(GenerationRequest())[1]).describe()
    drawn = {key: described.get(key) for key in SAMPLED_WITH} | {"samples": 4}
    xrays = list(torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    shift = asdict(InputShift.fit(xrays[:40], xrays[40:]))
    evidence = {"estimate": ESTIMATE, "curve": {"uncalibrated": [0.0, 1.0], "calibrated": [0.25, 0.25], "cases": 7}}
    intervals = PredictionIntervals(
        generator.checkpoint, drawn, 0.5, 0.9, {}, population={"evidence": evidence}, shift=shift
    )
    monkeypatch.setattr(generator, "intervals", intervals)
    result = last(service.generate(film, GenerationRequest(samples=4)))
    assert plain(result)["interval"].startswith("Spread only: this X-ray is unlike the calibration's (p 0.048)")
    percent = nib.load(result.files["evidence.nii.gz"]).get_fdata()
    assert np.isin(percent, (25, -1)).all() and (percent == 25).any()
    assert "calibrated on 7 cases" in result.evidence and "too sure" not in result.evidence


def test_four_samples_have_an_evidence_map(service, film):
    result = last(service.generate(film, GenerationRequest(samples=4, steps=1)))
    assert plain(result)["urls"]["evidence.nii.gz"].endswith("/evidence.nii.gz")
    percent = nib.load(result.files["evidence.nii.gz"]).get_fdata()
    assert percent.shape == volume(result).shape and 0 <= percent.min() <= percent.max() <= 100
    found = json.loads(result.files["settings.json"].read_text())["evidence"]
    assert found["name"] == "map" and found["training_cases"] == 40 and found["like_calibration"] is None
    assert "compared with 40 training volumes" in found["words"]
    assert "orange, where the samples vary" in result.evidence and "not checked against a truth" in result.evidence
    assert "not calibrated (no calibration)" in result.evidence and "too sure" in result.evidence


def test_a_preliminary_picture_precedes_the_result_and_repeats(service, film):
    """The first step's prediction is shown before the second step, and is the same for the same seed."""
    drawn = []
    for _ in range(2):
        *news, result = service.generate(film, GenerationRequest(seed=6, steps=7))
        shown, place = [item.slices for item in news if item.slices], result.files["volume.nii.gz"].parent
        assert shown and shown[0].parent == place and isinstance(result, Result)
        assert not (place / "step_0007.png").exists()  # the result follows at once
        drawn.append((place / "step_0001.png").read_bytes())
    assert drawn[0] == drawn[1]


def test_page_and_command_line_give_the_same_volume(service, film, tmp_path):
    """With the settings of the result only."""
    result = last(service.generate(film, GenerationRequest(seed=5, samples=2, sampler="ddim", steps=3, guidance=2.0)))
    settings = json.loads(result.files["settings.json"].read_text())
    assert "Mueller" not in json.dumps(settings)
    words = shlex.split(settings["command"].replace("<the same X-ray>", "X").replace("<the same checkpoint>", "C"))
    assert words[:2] == ["python", "evaluation/generate.py"]
    with initialize_config_dir(str(CONFIG), version_base="1.3"):
        cfg = compose("generate", words[2:])
    pipeline = load_pipeline(service.file)
    set_sampler(pipeline, OmegaConf.to_container(cfg.sampler, resolve=True))
    sampling = Sampling(cfg.samples, cfg.seed, cfg.batch_size)
    (path,) = generate(pipeline, [film], tmp_path / "out", sampling, align=cfg.align, view=cfg.view)
    np.testing.assert_array_equal(nib.load(path).get_fdata(), volume(result))
    np.testing.assert_array_equal(nib.load(path).affine, nib.load(result.files["volume.nii.gz"]).affine)


def test_the_command_names_what_the_server_has_changed_of_its_sampler(tmp_path, film):
    """Of `WEB="sampler.consistency=on"`: the command composes the sampler that drew the volume."""
    words = ["sampler.spacing=log_snr", "sampler.antithetic=false", "sampler.consistency=on"]
    words.append("+sampler.solver_order=3")  # of the solver: not in the file of the sampler
    ddim = OmegaConf.to_container(OmegaConf.load(CONFIG / "sampler" / "ddim.yaml")) | {"steps": 2}
    pipeline = small_pipeline()
    pipeline.register_modules(consistency=planted())
    with initialize_config_dir(str(CONFIG), version_base="1.3"):
        changed = OmegaConf.to_container(compose("demo", [*words, "sampler.steps=2"]).sampler)
        service = small_service(tmp_path / "run", pipeline, samplers={"default": changed, "ddim": ddim})
        for name, used, named in (("default", changed, words), ("ddim", ddim, [])):
            result = last(service.generate(film, GenerationRequest(sampler=name)))
            command = json.loads(result.files["settings.json"].read_text())["command"].split()
            options = command[command.index(f"sampler={name}") :]
            assert OmegaConf.to_container(compose("generate", options).sampler) == used
            assert [word for word in options if "sampler." in word][2:] == named  # after steps and guidance
    service.close()


@pytest.mark.slow
def test_page_and_python_give_the_same_volume_of_a_real_film(tmp_path):
    """A film, whose lungs guide the samples."""
    film, pipe = ROOT / "assets" / "films" / "hannover_b9673e89.png", XrayToCTPipeline.from_pretrained("shipped")
    service = small_service(tmp_path / "run", load_pipeline(SHIPPED))
    try:
        result = last(service.generate(film, GenerationRequest()))
        assert '"lung_guide": true' in result.files["settings.json"].read_text()
        difference = np.abs(
            volume(result).transpose(2, 1, 0) - pipe(film, seed=0, num_inference_steps=2).volumes[0].numpy()
        )
    finally:
        service.close()
    assert difference.mean() < 1.0  # HU, of the rounding to files


def test_the_settings_hold_the_hash_of_the_upload(service, film):
    """The page keeps the picture alone, without what follows it in the file."""
    film.write_bytes(film.read_bytes() + b"trailer")
    result = last(service.generate(film, GenerationRequest(steps=1)))
    assert json.loads(result.files["settings.json"].read_text())["xray"]["sha256"] == sha256(film)


def test_the_volume_depends_on_seed_and_xray_only(service, tmp_path):
    first, renamed = save_film(tmp_path / "a.png", 1), save_film(tmp_path / "b.dcm.png", 1)
    other = save_film(tmp_path / "c.png", 2)
    a, again = (volume(last(service.generate(path, GenerationRequest(seed=1)))) for path in (first, renamed))
    np.testing.assert_array_equal(a, again)
    assert np.abs(volume(last(service.generate(first, GenerationRequest(seed=2)))) - a).mean() > 1
    assert np.abs(volume(last(service.generate(other, GenerationRequest(seed=1)))) - a).mean() > 1


def test_eight_parallel_requests_get_their_own_results(service, tmp_path):
    """Four different requests, each twice."""
    jobs = [(save_film(tmp_path / f"{n}.png", n), GenerationRequest(seed=n)) for n in range(4)]
    alone = [volume(last(service.generate(*job))) for job in jobs]
    assert not any(np.array_equal(one, other) for one, other in itertools.combinations(alone, 2))
    with ThreadPoolExecutor(8) as pool:
        heard = list(pool.map(lambda job: list(service.generate(*job)), 2 * jobs))
    assert max(news.ahead for items in heard for news in items[:-1]) >= 4
    for items, expected in zip(heard, 2 * alone, strict=True):
        np.testing.assert_array_equal(volume(items[-1]), expected)
    assert len({items[-1].token for items in heard}) == 8


def test_cancel_frees_the_worker_and_deletes_the_files(service, film):
    cancelled, before = threading.Event(), set(service.store.results.iterdir())
    items = service.generate(film, GenerationRequest(steps=900), cancelled=cancelled)
    while next(items).step == 0:
        pass
    cancelled.set()
    with pytest.raises(Cancelled):
        list(items)
    started = time.monotonic()
    kept = last(service.generate(film, GenerationRequest(steps=1)))
    assert isinstance(kept, Result) and time.monotonic() - started < 60
    assert set(service.store.results.iterdir()) - before == {kept.files["volume.nii.gz"].parent}


def test_errors_in_requests_leave_the_server_running(service, film, monkeypatch, caplog):
    for error, message in (
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "not enough mem"),
        (MemoryError(), "not enough memory"),
        (ZeroDivisionError("Mueller_Hans"), r"request failed \(ZeroDivisionError\)"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(service.pipeline, "predict", Mock(side_effect=error))
            with pytest.raises(UserError, match=message):
                last(service.generate(film, GenerationRequest()))
    assert isinstance(last(service.generate(film, GenerationRequest(steps=1))), Result)
    assert "Mueller" not in caplog.text


@pytest.mark.parametrize(
    "requests",
    [
        {"sampler": "magic"}, {"steps": 0}, {"steps": 1e9}, {"steps": 2.5}, {"guidance": float("nan")},
        {"guidance": -1}, {"seed": -1}, {"seed": 2**32}, {"samples": 0}, {"samples": 9}, {"samples": "many"},
        {"view": "oblique"}, {"align": "../x"},
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused(service, film, requests):
    (name,) = requests
    with pytest.raises(UserError, match=f"^{name}="):
        last(service.generate(film, GenerationRequest(**requests)))


def test_guidance_is_refused_without_condition_drop_in_training(film, tmp_path):
    service = small_service(tmp_path / "service", small_pipeline(condition_drop=0))
    assert not service.about["guided"]
    with pytest.raises(UserError, match=r"guidance_scale=2: .*; use 1"):
        service.checked(GenerationRequest(guidance=2.0))
    assert service.checked(GenerationRequest(guidance=1)).guidance == 1.0
    service.close()


def test_errors_contain_no_file_name_of_the_patient(service, tmp_path, caplog):
    bad = tmp_path / "Mueller_Hans_1950.png"
    for content in (b"", b"nonsense" * 99, save_film(tmp_path / "x.png").read_bytes()[:900]):
        bad.write_bytes(content)
        for call in (service.look, lambda path: last(service.generate(path, GenerationRequest()))):
            with pytest.raises(UserError, match="the X-ray") as refused:
                call(bad)
            assert "Mueller" not in str(refused.value) and str(tmp_path) not in str(refused.value)
    assert "Mueller" not in caplog.text


def test_a_lateral_is_shown_with_a_warning_and_refused(service, tmp_path):
    lateral = save_radiograph(tmp_path / "x.dcm", view="LL")
    seen = service.look(lateral)
    assert "lateral" in seen.warnings[0] and Image.open(seen.picture).size == (512, 512)
    with pytest.raises(UserError, match="lateral"):
        last(service.generate(lateral, GenerationRequest()))


def test_a_true_ct_adds_its_volume_and_metrics(service, film, tmp_path):
    made = last(service.generate(film, GenerationRequest()))
    own = read_volume(made.files["volume.nii.gz"])
    write_nifti(tmp_path / "truth.nii.gz", own.hu, own.spacing, description="original CT")
    same = last(service.generate(film, GenerationRequest(), tmp_path / "truth.nii.gz"))
    assert same.metrics["mae_hu"]["value"] <= 1.0 and same.metrics["psnr"]["value"] > 60
    np.testing.assert_array_equal(volume(same), volume(made))  # the CT does not change the volume
    truth = nib.load(same.files["truth.nii.gz"])
    assert np.abs(truth.get_fdata() - volume(same)).max() <= 1
    np.testing.assert_array_equal(truth.affine, nib.load(same.files["volume.nii.gz"]).affine)
    with zipfile.ZipFile(tmp_path / "truth.zip", "w") as archive:
        archive.write(tmp_path / "truth.nii.gz", "export/truth.nii.gz")
    again = last(service.generate(film, GenerationRequest(), tmp_path / "truth.zip"))
    assert again.metrics == same.metrics
    assert not list(service.store.results.rglob("upload*"))  # unpacked files are deleted too
    with pytest.raises(UserError, match="the CT"):
        last(service.generate(film, GenerationRequest(), film))


def test_a_window_without_lungs_has_no_reprojection(tmp_path, film):
    service = small_service(tmp_path / "run", small_pipeline(window=[-200.0, 500.0], dataset="phantom"))
    result = last(service.generate(film, GenerationRequest()))
    assert result.reprojection is None and not {"reprojection.png", "difference.png"} & set(result.urls)
    assert result.window == (-200.0, 500.0)
    service.close()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("protocol", "message"),
    [
        ({"input": "volume"}, "takes volumes"),
        ({"views": 3}, "3 views.*one or two"),
        ({"xray_size": None}, "xray_size"),
    ],
)
def test_an_unfit_checkpoint_is_refused_with_the_reason(tmp_path, protocol, message):
    pipeline = small_pipeline(**protocol)
    if protocol.get("xray_size", 0) is None:
        pipeline.register_to_config(protocol={k: v for k, v in pipeline.protocol.items() if k != "xray_size"})
    with pytest.raises(UserError, match=message):
        small_service(tmp_path / "run", pipeline, checkpoint=Path("some.ckpt"))


def test_samplers_of_the_config_are_offered(service):
    assert list(service.samplers) == list(SAMPLERS) and service.default_sampler == "default"
