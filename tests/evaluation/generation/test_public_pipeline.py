"""The public API gives the volumes of the command from every form of an X-ray, and refuses others in one line."""

import json

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from demo_parts import small_pipeline
from forked_command import run_command
from PIL import Image

from dataset.imaging.drr import render_xray
from dataset.imaging.geometry import extent_mm, view_pose
from dataset.phantom.render import render_phantom
from ddpm.checkpoint.write import export_pipeline
from xray2ct import UserError, XrayToCTPipeline

STEPS = {"num_inference_steps": 3}


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    """A small untrained generator, of 32 voxels a side."""
    small = small_pipeline(lung_box=[0.3, 0.7, 0.2, 0.8, 0.25, 0.75])
    path = export_pipeline(small, tmp_path_factory.mktemp("weights") / "small.safetensors", torch.float32)
    pipe = XrayToCTPipeline.from_pretrained(path)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def chest(tmp_path_factory):
    """A file, moved so that the alignment acts."""
    phantom = render_phantom(20000900, size=(64, 64, 64))
    pose = view_pose(extent_mm(phantom.hu.shape, phantom.spacing), "PA")[None]
    xray = render_xray(torch.tensor(phantom.hu_plain).float(), phantom.spacing, pose, (128, 128))[0]
    path = tmp_path_factory.mktemp("xray") / "chest.png"
    Image.fromarray((xray.roll((-12, 14), (0, 1)).numpy() * 255).astype(np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def result(pipe, chest):
    return pipe(chest, num_samples=2, seed=7, **STEPS)


@pytest.mark.slow
def test_the_command_gives_the_same_volume(pipe, result, chest, tmp_path):
    options = [f"xray={chest}", "samples=2", "seed=7", "sampler.steps=3", f"checkpoint={pipe.checkpoint}"]
    done = run_command("evaluation/generate.py", *options, f"output={tmp_path}", "device=cpu", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result.save(tmp_path / "api")
    for ending in ("ct", "spread"):
        command_file, api_file = (
            nib.load(f / f"chest_synthetic_{ending}.nii.gz") for f in (tmp_path, tmp_path / "api")
        )
        np.testing.assert_array_equal(command_file.get_fdata(), api_file.get_fdata())
        np.testing.assert_array_equal(command_file.affine, api_file.affine)
    printed, settings = (json.loads((f / "chest_settings.json").read_text()) for f in (tmp_path, tmp_path / "api"))
    assert printed == settings
    for line in (str(tmp_path / "chest_sample_2_synthetic_ct.nii.gz"), f"difference {result.reprojection}"):
        assert line in done.stdout
    assert result.settings["reprojection_note"] in done.stdout


def test_a_result_has_volumes_spread_nifti_and_warnings(pipe, result):
    assert result.volumes.shape == (2, *pipe.volume_size)
    torch.testing.assert_close(result.mean, result.volumes.mean(dim=0))
    assert float(result.spread.mean()) > 1.0
    image = result.to_nifti()
    assert np.abs(image.get_fdata().transpose(2, 1, 0) - result.mean.numpy()).max() <= 0.5 + 1e-3
    assert image.header.get_zooms() == pytest.approx(result.spacing[::-1])
    assert result.settings["alignment"]["align"] == "lungs" and result.warnings == result.settings["warnings"]
    assert 0.0 < result.reprojection < 0.5 and result.settings["steps"] == 3 and pipe.describe()["steps"] == 12


def test_every_form_of_the_xray_gives_the_same_volume(pipe, result, chest):
    picture = Image.open(chest)
    for form in (str(chest), picture, np.asarray(picture), torch.from_numpy(np.asarray(picture).copy())):
        again = pipe(form, num_samples=2, seed=7, **STEPS)
        assert torch.equal(again.volumes, result.volumes), type(form)
    as_it_is = pipe(result.given.xray[None, :, None], num_samples=2, seed=7, output_type="np", **STEPS)
    assert isinstance(as_it_is.volumes, np.ndarray) and as_it_is.volumes.shape == (1, 2, *pipe.volume_size)
    np.testing.assert_allclose(as_it_is.volumes[0], result.volumes, atol=0.5)


def test_a_list_gives_a_list_of_results_and_one_sample_no_spread(pipe, chest, tmp_path):
    generator = torch.Generator().manual_seed(3)
    results = pipe([chest, Image.open(chest)], generator=generator, **STEPS)
    assert results.volumes.shape == (2, 1, *pipe.volume_size) and results.spread is None
    assert torch.equal(results[0].volumes, results[1].volumes)
    assert not torch.equal(pipe(chest, generator=generator, **STEPS).volumes, results[0].volumes)
    names = {path.name for path in results.save(tmp_path)}
    assert names == {"chest_synthetic_ct.nii.gz", "xray_synthetic_ct.nii.gz"}
    with pytest.raises(UserError, match="chest_settings.json: of an earlier run"):
        results.save(tmp_path)


def test_the_sampler_of_a_stream_is_its_own(pipe, result, chest):
    """Calls and other streams between its results keep theirs, and one that is not finished changes nothing."""
    before = dict(pipe.config.sampling)
    few, more = pipe.stream([chest, chest], 1, 7, num_inference_steps=2), pipe.stream([chest, chest], 1, 7, **STEPS)
    assert next(few).settings["steps"] == 2 and next(more).settings["steps"] == 3
    assert pipe(chest, seed=7, num_inference_steps=4).settings["steps"] == 4
    assert next(few).settings["steps"] == 2 and dict(pipe.config.sampling) == before
    del more
    assert dict(pipe.config.sampling) == before


def test_a_stream_of_one_xray_is_that_xray(pipe, result, chest):
    array = np.array(Image.open(chest))
    for single in (str(chest), chest, Image.open(chest), array, torch.from_numpy(array)):
        (found,) = pipe.stream(single, 2, 7, **STEPS)
        assert torch.equal(found.volumes, result.volumes)


def test_results_are_saved_in_a_folder_of_the_user(result, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert result.save("~/mine")[0] == tmp_path / "mine" / "chest_synthetic_ct.nii.gz"


def test_fewer_samples_leave_nothing_of_the_earlier_run(pipe, result, chest, tmp_path):
    result.save(tmp_path, dicom=True, gif=True)
    slices = sorted((tmp_path / "chest_synthetic_dicom").iterdir())
    assert pydicom.dcmread(slices[0]).ImageComments == result.mark and "nominal" in result.mark
    with Image.open(tmp_path / "chest_synthetic_ct.gif") as gif:
        assert gif.n_frames == max(result.samples.shape[1:])
    (tmp_path / "chest_2_settings.json").touch()  # of another X-ray
    pipe(chest, **STEPS).save(tmp_path, overwrite=True)
    endings = ("settings.json", "synthetic_ct.nii.gz", "synthetic_ct.png")
    assert {path.name for path in tmp_path.iterdir()} == {f"chest_{e}" for e in endings} | {"chest_2_settings.json"}


@pytest.mark.parametrize(
    ("xray", "line"),
    [
        (torch.zeros(1, 1, 1, 32, 32), r"shape \[1, 1, 1, 32, 32\]; give one of shape \[b, 1, 1, 64, 64\]"),
        (torch.full((1, 1, 1, 64, 64), 255.0), r"values from 255 to 255; scale them to \[0, 1\]"),
        (torch.zeros(2, 3, 4, 128, 128), r"shape \[2, 3, 4"),
        (np.zeros((4, 128, 128)), r"xray 1: shape \[4, 128, 128\]"),
        (np.array("x"), "xray 1: .*holds|xray 1: "),
        ("none.png", "none.png: no such file"),
        ([], "xray: an empty list; give at least one"),
        (torch.zeros(0, 1, 1, 64, 64), "xray: an empty list; give at least one"),
    ],
)
def test_a_wrong_xray_ends_in_one_line(pipe, xray, line):
    with pytest.raises(UserError, match=line):
        pipe(xray)


def test_wrong_options_and_weights_end_in_one_line(pipe, chest, tmp_path):
    for options, line in (
        ({"num_samples": 0}, "samples=0"),
        ({"num_samples": 2.5}, "samples=2.5: give a whole number of at least 1"),
        ({"batch_size": 1.5}, "batch_size=1.5: give a whole number of at least 1"),
        ({"num_inference_steps": 0}, "sampler.steps=0: give a whole number of at least 1"),
        ({"seed": -1}, "seed=-1: give a whole number of at least 0"),
        ({"output_type": "pil"}, "output_type=pil: choose pt or np"),
        ({"align": "all"}, "align=all"),
    ):
        with pytest.raises(UserError, match=line):
            pipe(chest, **options)
    with pytest.raises(UserError, match="pose: shape .*; give .1, 1, 9., the views' poses"):
        pipe(torch.zeros(1, 1, 1, 64, 64), pose=torch.zeros(1, 9))
    with pytest.raises(UserError, match="no [*].ckpt in this folder; train one"):
        XrayToCTPipeline.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UserError, match="no [*].ckpt in this folder; give its file .*model.safetensors"):
        XrayToCTPipeline.from_pretrained(tmp_path)
    with pytest.raises(UserError, match="outputs/runs/a/b: no file or folder here"):
        XrayToCTPipeline.from_pretrained("outputs/runs/a/b")
    with pytest.raises(UserError, match="none.ckpt: no such checkpoint"):
        XrayToCTPipeline.from_pretrained(tmp_path / "none.ckpt")


def test_a_damaged_picture_is_called_so(pipe, tmp_path):
    whole = tmp_path / "whole.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)).save(whole)
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:2000])
    closed = Image.open(whole)
    closed.close()
    for picture in (Image.open(tmp_path / "cut.png"), closed):
        with pytest.raises(UserError, match="xray: a damaged or closed picture"):
            pipe(picture)


def test_a_saved_folder_opens_with_its_sampler(pipe, chest, tmp_path):
    pipe.save_pretrained(tmp_path)
    again = XrayToCTPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert torch.equal(again(chest, **STEPS).volumes, pipe(chest, **STEPS).volumes)


@pytest.mark.frontal_check
def test_a_picture_that_is_no_chest_is_refused_or_has_a_warning(pipe):
    noise = np.random.default_rng(0).uniform(size=(64, 64))
    for form in (noise, torch.from_numpy(noise).float()[None, None, None]):
        with pytest.raises(UserError, match="does not look like a frontal chest"):
            pipe(form)
        results = pipe(form, allow_any_picture=True, **STEPS)
        warnings = results.warnings if form is noise else results[0].warnings
        assert any("does not look like" in line for line in warnings)
