"""Weights for one X-ray or two, in command, Python and exports."""

import json
import logging

import numpy as np
import pytest
import torch
from ddpm_parts import shared_pipeline
from PIL import Image

from common.errors import UserError
from dataset.imaging.unknown_pixels import present_views
from evaluation.generation.public_pipeline import XrayToCTPipeline
from evaluation.generation.sample import Sampling
from evaluation.generation.write_volumes import find_xrays, for_views, generate
from evaluation.generation.xray_inputs import read_inputs, tensor_inputs
from evaluation.sharing.exporter import export
from evaluation.sharing.monai_bundle import XrayToCT, write_bundle

STEPS = {"num_inference_steps": 2}


@pytest.fixture(scope="module")
def pipe():
    made = XrayToCTPipeline.of(shared_pipeline())
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with a pair, and a patient with a frontal alone."""
    folder, rng = tmp_path_factory.mktemp("xrays"), np.random.default_rng(0)
    for name in ("a_lat", "a_pa", "b_pa"):
        image = Image.fromarray(rng.integers(0, 255, (6, 6), dtype=np.uint8)).resize(
            (64, 64), Image.Resampling.BICUBIC
        )
        image.save(folder / f"{name}.png")
    return folder


def test_one_file_or_two_give_other_volumes_and_settings(pipe, files, tmp_path):
    folder = for_views(find_xrays(str(files)), {"views": 2})
    assert [(files / "a_pa.png", files / "a_lat.png"), files / "b_pa.png"] == folder
    generate(shared_pipeline(), [folder[0], files / "a_pa.png"], tmp_path / "out", Sampling(batch_size=1))
    settings = [json.loads((tmp_path / "out" / f"a_pa_png_{n}_settings.json").read_text()) for n in (1, 2)]
    assert [entry["views"] for entry in settings] == [["frontal", "lateral"], ["frontal"]]
    alone, both = pipe(files / "a_pa.png", **STEPS), pipe((files / "a_pa.png", files / "a_lat.png"), **STEPS)
    text = pipe(f"{files / 'a_pa.png'};{files / 'a_lat.png'}", **STEPS)
    assert torch.equal(text.volumes, both.volumes) and not torch.equal(alone.volumes, both.volumes)
    mixed = pipe((files / "a_pa.png", np.asarray(Image.open(files / "a_lat.png"))), **STEPS)
    assert torch.equal(mixed.volumes, both.volumes) and mixed.settings["xray"]["file"] is None


def test_a_missing_view_is_unknown_and_reading_equals_the_tensor(pipe, files):
    (given,) = read_inputs([files / "b_pa.png"], pipe)
    assert present_views(given.xray[None, :, None]).tolist() == [[True, False]]
    expected = pipe(files / "b_pa.png", **STEPS).volumes
    for xray in (given.xray[None, :, None], given.xray[None, :1, None]):
        assert torch.equal(pipe(xray, **STEPS).volumes[0], expected)


def test_a_lateral_alone_is_a_tensor_with_a_missing_frontal(pipe):
    xray = torch.rand(1, 2, 1, 64, 64)
    xray[:, 0] = torch.nan
    (given,) = tensor_inputs(xray, pipe)
    assert given.xray[0].isnan().all() and pipe(xray, **STEPS).volumes.isfinite().all()
    with pytest.raises(UserError, match="values all NaN"):
        tensor_inputs(torch.full_like(xray, torch.nan), pipe)


def test_weights_of_both_views_always_refuse_one(files):
    pipe = shared_pipeline(view_drop=0.0)
    with pytest.raises(UserError, match="b_pa.png: 1 view, the checkpoint takes 2"):
        read_inputs([files / "b_pa.png"], pipe)


def test_weights_of_one_view_leave_the_laterals_of_a_folder_out(files, caplog):
    folder = find_xrays(str(files))
    with caplog.at_level(logging.WARNING):
        assert for_views(folder, {"views": 1}) == [files / "a_pa.png", files / "b_pa.png"]
    assert "1 laterals are left out (a_lat.png)" in caplog.text
    assert for_views(folder, {"views": 2}) == [(files / "a_pa.png", files / "a_lat.png"), files / "b_pa.png"]


@pytest.mark.slow
def test_the_exported_program_serves_one_view(pipe, tmp_path):
    folder = export(pipe, tmp_path / "export", "torch_export")
    about = json.loads((folder / "programs.json").read_text())
    assert about["views"] == 2 and about["missing_views"] == "NaN"
    assert [round(pose[2]) for pose in about["nominal_pose"]] == [0, 90]
    assert "It takes a frontal X-ray alone" in (folder / "README.md").read_text()


def test_the_bundle_takes_a_channel_for_each_view(pipe, tmp_path):
    write_bundle(pipe, tmp_path, "bundle")
    metadata = json.loads((tmp_path / "configs" / "metadata.json").read_text())
    assert metadata["network_data_format"]["inputs"]["image"]["num_channels"] == 2
    assert metadata["task"].endswith("one or two chest X-rays")
    header = json.loads((tmp_path / "configs" / "inference.json").read_text())["network_def"]["header"]
    network = XrayToCT(header)
    assert network(torch.rand(1, 1, 64, 64)).shape == network(torch.rand(1, 2, 64, 64)).shape == (1, 1, 32, 32, 32)
