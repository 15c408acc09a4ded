"""A diffusers folder gives the volume of the pipeline that wrote it, and names only classes of the registry."""

import json
import shutil

import pytest
import torch
from ddpm_parts import VOLUME, module
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler
from safetensors.torch import load_file, save_file

from common.errors import UserError
from ddpm.pipeline import XrayToCTPipeline
from ddpm.xray_encoder import CNNXrayEncoder


@pytest.fixture(scope="module")
def pipeline():
    torch.manual_seed(0)
    return module().pipeline().set_sampler("DDIMScheduler", 3, guidance_scale=1.5, antithetic=False)


@pytest.fixture(scope="module")
def written(pipeline, tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(written, tmp_path):
    return shutil.copytree(written, tmp_path / "copy")


def volume(pipeline, **options):
    return pipeline(torch.rand(1, 1, 1, 64, 64, generator=torch.Generator().manual_seed(5)), **options).volumes


def edit(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_the_folder_gives_the_same_volume_and_keeps_the_sampler(pipeline, folder):
    again = XrayToCTPipeline.from_pretrained(folder)
    assert again.describe() == pipeline.describe() and again.protocol == pipeline.protocol
    assert torch.equal(volume(again, num_samples=2), volume(pipeline, num_samples=2))
    assert isinstance(pipeline.scheduler, DDIMScheduler) and isinstance(again.training_scheduler, DDPMScheduler)


def test_a_loaded_pipeline_is_written_again_without_its_path(pipeline, folder, tmp_path):
    XrayToCTPipeline.from_pretrained(folder).save_pretrained(tmp_path / "second")
    for file in (tmp_path / "second").rglob("*.json"):
        assert str(tmp_path) not in file.read_text(), file
    again = XrayToCTPipeline.from_pretrained(tmp_path / "second")
    assert torch.equal(volume(again), volume(pipeline))


def test_schedulers_are_swapped_as_in_diffusers(folder):
    pipeline = XrayToCTPipeline.from_pretrained(folder)
    for cls in (DDPMScheduler, DDIMScheduler, EulerDiscreteScheduler):
        pipeline.scheduler = cls.from_config(pipeline.scheduler.config)
        assert pipeline.scheduler.config.clip_sample is False  # the default would shrink latents
        assert pipeline.scheduler.config.timestep_spacing == "trailing"
        made = volume(pipeline, num_inference_steps=2)
        assert made.shape == (1, 1, *VOLUME) and torch.isfinite(made).all()
        assert pipeline.describe()["sampler"] == cls.__name__


def test_a_scheduler_of_karras_family_samples_what_ddim_samples(folder):
    """A step of DDIM is one of Euler in other coordinates (Song et al., 2021): start and input are scaled for it."""
    pipeline = XrayToCTPipeline.from_pretrained(folder).set_sampler("DDIMScheduler", 3)
    first = volume(pipeline)
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    torch.testing.assert_close(volume(pipeline), first, atol=20.0, rtol=0)  # of a range of 2000 HU, in bfloat16


def test_a_part_replaces_that_of_the_folder(folder):
    own = CNNXrayEncoder(width=8, blocks=1, feature_channels=8, embedding_dim=32).eval()
    assert XrayToCTPipeline.from_pretrained(folder, xray_encoder=own).xray_encoder is own


FOREIGN = [["os", "system"], ["diffusers", "UNet2DModel"], ["ddpm.denoiser.unet", "Tensor"], "x", None]


@pytest.mark.parametrize("found", FOREIGN)
def test_foreign_classes_are_refused(folder, found):
    edit(folder / "model_index.json", denoiser=found)
    with pytest.raises(UserError, match="not one of|missing|expected"):
        XrayToCTPipeline.from_pretrained(folder)


def test_foreign_pipelines_and_parts_of_another_class_are_refused(folder):
    edit(folder / "denoiser" / "config.json", _class_name="VolumeEncoder")
    with pytest.raises(UserError, match="class VolumeEncoder, but model_index.json names UNet3D"):
        XrayToCTPipeline.from_pretrained(folder)
    edit(folder / "model_index.json", _class_name="StableDiffusionPipeline")
    with pytest.raises(UserError, match="not XrayToCTPipeline"):
        XrayToCTPipeline.from_pretrained(folder)
    for option in ("custom_pipeline", "trust_remote_code"):
        with pytest.raises(UserError, match=f"{option}: the project runs no code"):
            XrayToCTPipeline.from_pretrained(folder, **{option: "x"})


def test_missing_weights_are_refused(folder):
    file = folder / "denoiser" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights.pop(sorted(weights)[0])
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(UserError, match="do not make a UNet3D.*Missing key"):
        XrayToCTPipeline.from_pretrained(folder)


def test_a_link_out_of_the_folder_and_a_pickle_are_refused(folder, tmp_path):
    file = folder / "lift" / "diffusion_pytorch_model.safetensors"
    file.rename(tmp_path / "elsewhere.safetensors")
    file.symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(UserError, match="leads out of its folder"):
        XrayToCTPipeline.from_pretrained(folder)
    file.unlink()
    (folder / "lift" / "diffusion_pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UserError, match="safetensors: missing"):
        XrayToCTPipeline.from_pretrained(folder)


def test_another_precision_is_refused(tmp_path):
    """The networks choose theirs by the device, the linear prior needs float32."""
    module().pipeline().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"torch_dtype=torch.bfloat16: leave it out"):
        XrayToCTPipeline.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert XrayToCTPipeline.from_pretrained(tmp_path, torch_dtype=torch.float32).denoiser.dtype == torch.float32
