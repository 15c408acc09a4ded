"""What is exported gives the same volume again: as a folder of diffusers, a MONAI bundle and one file."""

import json

import monai.bundle
import numpy as np
import pytest
import torch
from ddpm_parts import module
from PIL import Image

from common.errors import UserError
from common.files import sha256
from dataset.io.xray import read_xray
from ddpm.checkpoint.load import load_pipeline
from ddpm.checkpoint.write import export_pipeline
from ddpm.pipeline import XrayToCTPipeline
from evaluation.sharing.exporter import check_options, export, read_metrics
from evaluation.sharing.model_card import model_card

PROTOCOL = {"xray_size": [64, 64], "seen": {"train": ["0123456789abcdef"], "val": []}}


@pytest.fixture(scope="module")
def pipeline():
    torch.manual_seed(0)
    made = module().pipeline().set_sampler("DDIMScheduler", 2)
    made.register_to_config(protocol={**made.protocol, **PROTOCOL})
    return made


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    path = tmp_path_factory.mktemp("film") / "film.png"
    ramp = np.add.outer(np.arange(80), np.arange(80)) % 251
    Image.fromarray(ramp.astype(np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def expected(pipeline, film):
    return pipeline(read_xray(film, (64, 64))[None, None, None], seed=3).volumes


def volume(pipeline, film):
    return pipeline(read_xray(film, (64, 64))[None, None, None], seed=3).volumes


def test_a_folder_of_diffusers(pipeline, film, expected, tmp_path):
    folder = export(pipeline, tmp_path / "model", "diffusers")
    assert torch.equal(volume(XrayToCTPipeline.from_pretrained(folder), film), expected)
    assert torch.equal(volume(load_pipeline(folder), film), expected)  # evaluation/generate.py takes it as well
    assert not list(folder.rglob("*.bin")) and not list(folder.rglob("*.pt"))
    assert sha256(folder) == sha256(folder) != sha256(export(pipeline, tmp_path / "other", "diffusers", name="other"))


def test_a_monai_bundle_is_loaded_and_run(pipeline, film, expected, tmp_path):
    folder = export(pipeline, tmp_path / "bundle", "monai")
    options = {"bundle_dir": tmp_path, "workflow_type": "inference", "device": "cpu", "source": "github"}
    network = monai.bundle.load("bundle", **options)
    assert torch.equal(network(read_xray(film, (64, 64))[None, None], seed=3), expected)
    settings = {"bundle_root": str(folder), "xray": str(film), "output_dir": str(tmp_path / "out"), "seed": 3}
    monai.bundle.run(config_file=str(folder / "configs" / "inference.json"), device="cpu", **settings)
    (made,) = (tmp_path / "out").glob("*_synthetic_ct.nii.gz")
    assert made.stat().st_size > 1000
    meta = json.loads((folder / "configs" / "metadata.json").read_text())
    assert meta["network_data_format"]["outputs"]["pred"]["spatial_shape"] == [32, 32, 32]


def test_one_file_in_both_precisions(pipeline, film, expected, tmp_path):
    whole = export(pipeline, tmp_path / "whole", "safetensors") / "model.safetensors"
    again = load_pipeline(whole).set_sampler("DDIMScheduler", 2)
    assert torch.equal(volume(again, film), expected)
    half = export(pipeline, tmp_path / "half", "safetensors", precision="bfloat16") / "model.safetensors"
    assert half.stat().st_size < 0.7 * whole.stat().st_size


def test_local_paths_and_patients_are_removed(pipeline, tmp_path):
    pipeline.xray_encoder.register_to_config(source="/home/somebody/secret/encoder.pt")
    for form in ("diffusers", "monai"):
        folder = export(pipeline, tmp_path / form, form, seen=False)
        texts = [file.read_text() for file in folder.rglob("*") if file.suffix in (".json", ".md")]
        assert not any("somebody" in text or "0123456789abcdef" in text for text in texts)
        assert any("encoder.pt" in text and "check at the source" in text for text in texts)  # its licence is asked


def test_the_card_tells_metrics_and_their_absence(pipeline, tmp_path):
    checkpoint = export_pipeline(pipeline, tmp_path / "last.safetensors")
    assert "Not evaluated" in (export(pipeline, tmp_path / "a", "diffusers", checkpoint) / "README.md").read_text()
    protocol = {"checkpoint": {"sha256": sha256(checkpoint)}, "cases": 5, "split": "test", "patients": 5,
                "dataset": "lidc", "estimator": "one sample", "window": [-1000, 1000], "data_range_hu": 2000.0,
                "registration": "none", "bootstrap": {"draws": 2000}}  # fmt: skip
    estimate = {"mean": 21.5, "low": 20.0, "high": 23.0}
    result = {"protocol": protocol, "methods": {"model": {"psnr": estimate, "ssim": None}}}
    file = tmp_path / "metrics.json"
    file.write_text(json.dumps(result))
    metrics = read_metrics(file, checkpoint)
    card = (export(pipeline, tmp_path / "a", "diffusers", checkpoint, metrics) / "README.md").read_text()
    assert "21.5 | 20 to 23" in card and "one sample" in card and "not measured" in card
    assert "not for diagnosis" in card and sha256(checkpoint) in card
    protocol["checkpoint"]["sha256"] = "0" * 64
    file.write_text(json.dumps(result))
    with pytest.raises(UserError, match="of another checkpoint"):
        read_metrics(file, checkpoint)


@pytest.mark.parametrize(("patients", "ends", "text"), [
    (1, (None, None), "21.5 | no interval: one patient"), (3, (-4.0, 47.0), "21.5 | no interval: 3 patients"),
    (5, (20.0, 23.0), "21.5 | 20 to 23")])  # fmt: skip
def test_the_card_of_few_patients_has_no_interval(patients, ends, text):
    estimate = dict(zip(("mean", "low", "high"), (21.5, *ends), strict=True))
    protocol = {"cases": 5, "split": "test", "patients": patients, "dataset": "lidc", "estimator": "one sample",
                "window": [-1000, 1000], "data_range_hu": 2000.0, "registration": "none",
                "bootstrap": {"draws": 2000, "method": "as it was done"}}  # fmt: skip
    header = {"protocol": {}, "format": 1, "inherits": []}
    metrics = {"protocol": protocol, "methods": {"model": {"psnr": estimate}}, "differences": {}}
    card = model_card(header, {"parameters": {"denoiser": 1}}, metrics, "a", "diffusers")
    assert text in card and "as it was done" in card


def test_wrong_options_are_errors(pipeline, tmp_path):
    with pytest.raises(UserError, match="format=onnx: choose diffusers"):
        check_options("onnx", "float32")
    with pytest.raises(UserError, match="precision=float16"):
        check_options("diffusers", "float16")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "README.md").write_text("mine")
    with pytest.raises(UserError, match="holds something else"):
        export(pipeline, tmp_path / "thesis", "diffusers")
    assert (tmp_path / "thesis" / "README.md").read_text() == "mine"


FOREIGN = {  # folders with a card and a name of an export, and what else they hold
    "configs/app.yaml": "a: 1",
    "configs/inference.json": '{"network_def": {"_target_": "monai.networks.nets.UNet"}}',
    "model_index.json": '{"_class_name": "StableDiffusionPipeline"}',
    "model.safetensors": "weights",
    "programs.json": '{"programs": {}}',
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_folder_that_is_no_export_is_not_removed(pipeline, tmp_path, name):
    for file, text in (("README.md", "mine"), (name, FOREIGN[name]), ("src/main.py", "work of years")):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(text)
    with pytest.raises(UserError, match="holds something else"):
        export(pipeline, tmp_path, "safetensors", overwrite=True)
    assert (tmp_path / "src" / "main.py").read_text() == "work of years" and len(list(tmp_path.iterdir())) == 3


def write_fake_programs(pipeline, folder):
    """The files of `write_programs`, which takes long."""
    (folder / "programs.json").write_text(json.dumps({"nominal_pose": [[0.0] * 9]}))
    (folder / "decoder.pt2").write_bytes(b"program")
    pipeline.scheduler.save_pretrained(folder / "scheduler")


def test_an_export_is_replaced_unless_it_holds_other_files(pipeline, tmp_path, monkeypatch):
    folder = tmp_path / "model"
    monkeypatch.setattr("evaluation.sharing.exporter.write_programs", write_fake_programs)
    for form in ("diffusers", "monai", "torch_export", "safetensors", "diffusers"):
        assert export(pipeline, folder, form, overwrite=True) == folder
        with pytest.raises(UserError, match="holds an earlier export"):
            export(pipeline, folder, form, overwrite=False)
    for name in ("notes.txt", "denoiser/notes.txt", "eval/config.json", "link"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to(tmp_path) if name == "link" else (folder / name).write_text("mine")
        with pytest.raises(UserError, match=f"holds {name}, which is no part of an export; move it"):
            export(pipeline, folder, "diffusers", overwrite=True)
        (folder / name).unlink()


def test_the_card_of_an_upload_names_its_place(pipeline, tmp_path):
    card = (export(pipeline, tmp_path / "a", "diffusers", hub_id="me/model") / "README.md").read_text()
    assert 'from_pretrained("me/model")' in card and "checkpoint=<this folder>" not in card
    check_options("diffusers", "float32", None)
    with pytest.raises(UserError, match="push=a/b/c: no name of a repository"):
        check_options("diffusers", "float32", "a/b/c")
